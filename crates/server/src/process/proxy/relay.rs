//! One connection, from its first byte to its last.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncWriteExt as _, copy},
    net::TcpStream,
    time::timeout,
};

use super::startup::{self, First};

/// A local server takes a connection at once.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long a client may be silent before its first byte: PostgreSQL's own limit for a login.
const FIRST_LIMIT: Duration = Duration::from_secs(60);
/// How long a server may take to answer a request for a cancellation, which it does by hanging up.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// Serves one client. Either side may hang up whenever it likes, so no error of a connection is news.
pub(super) async fn serve(mut client: TcpStream, targets: &[String], absent: &str) {
    let _ = client.set_nodelay(true);
    let Ok(Ok(first)) = timeout(FIRST_LIMIT, startup::read_first(&mut client)).await else {
        return;
    };
    if first.is_cancel_request() {
        let _ = timeout(CANCEL_LIMIT, cancel(client, first, targets)).await;
        return;
    }
    match connect(targets).await {
        Some(server) => {
            let _ = relay(client, server, first).await;
        }
        None => {
            let refusal = startup::refuse(&mut client, first, startup::CANNOT_CONNECT_NOW, absent);
            let _ = timeout(FIRST_LIMIT, refusal).await;
        }
    }
}

/// Connects to the first target that takes it.
async fn connect(targets: &[String]) -> Option<TcpStream> {
    for target in targets {
        if let Ok(Ok(server)) = timeout(CONNECT_LIMIT, TcpStream::connect(target)).await {
            let _ = server.set_nodelay(true);
            return Some(server);
        }
    }
    None
}

/// A cancellation comes by a connection of its own and says nothing of the server it is for. Every target gets it; all but the one
/// that knows the key ignore it.
async fn cancel(mut client: TcpStream, first: First, targets: &[String]) -> io::Result<()> {
    let request = startup::read_cancel(&mut client, first).await?;
    let sent = targets.iter().map(|target| async move {
        let mut server = TcpStream::connect(target).await?;
        server.write_all(&request).await?;
        // Done when the server hangs up: the client takes the end of its connection for that.
        copy(&mut server, &mut tokio::io::sink()).await
    });
    futures::future::join_all(sent).await;
    client.shutdown().await
}

/// Passes bytes on until the server hangs up. A client that hangs up is passed on as such, and the server decides what it still
/// has to say; a server that hung up has nothing more to hear, so a client that goes on holding its end costs nothing.
async fn relay(mut client: TcpStream, mut server: TcpStream, first: First) -> io::Result<()> {
    server.write_all(&first.bytes).await?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let up = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await?;
        // The other direction ends the connection.
        std::future::pending::<io::Result<u64>>().await
    };
    let down = copy(&mut from_server, &mut to_client);
    tokio::select! {
        result = up => result?,
        result = down => result?,
    };
    client.shutdown().await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::super::Proxy;

    const SOON: Duration = Duration::from_secs(10);
    const START: &[u8] = b"\0\0\0\x0e\0\x03\0\0user\0\0";

    async fn proxy(targets: &[&TcpListener]) -> Proxy {
        let proxy = Proxy::listen(0, "nobody is there".to_owned())
            .await
            .unwrap();
        let address = |target: &&TcpListener| target.local_addr().unwrap().to_string();
        proxy.lead_to(targets.iter().map(address).collect());
        proxy
    }

    async fn target() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").await.unwrap()
    }

    async fn accept(listener: &TcpListener) -> TcpStream {
        timeout(SOON, listener.accept()).await.unwrap().unwrap().0
    }

    async fn rest(stream: &mut TcpStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A reset is an end as well.
        let _ = timeout(SOON, stream.read_to_end(&mut bytes)).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_client_reads_why_while_nobody_is_there() {
        let down = target().await;
        let proxy = proxy(&[&down]).await;
        drop(down);
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        client.write_all(START).await.unwrap();
        let told = rest(&mut client).await;
        let told = String::from_utf8_lossy(&told);
        assert!(told.contains("C57P03\0Mnobody is there"), "{told:?}");
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_ends_the_connection_of_a_client_that_does_not() {
        let target = target().await;
        let proxy = proxy(&[&target]).await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        client.write_all(START).await.unwrap();
        let mut server = accept(&target).await;
        server.write_all(b"bye").await.unwrap();
        let mut start = [0; START.len()];
        server.read_exact(&mut start).await.unwrap();
        drop(server);
        assert_eq!(rest(&mut client).await, b"bye");
        // The client holds its end, and what it sends goes nowhere: the connection is over.
        let ended = async {
            while client.write_all(&[0; 1024]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(SOON, ended).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_ends_its_side_still_hears_the_answer() {
        let target = target().await;
        let proxy = proxy(&[&target]).await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        client.write_all(START).await.unwrap();
        client.shutdown().await.unwrap();
        let mut server = accept(&target).await;
        assert_eq!(rest(&mut server).await, START);
        server.write_all(b"the answer").await.unwrap();
        drop(server);
        assert_eq!(rest(&mut client).await, b"the answer");
    }

    #[tokio::test]
    async fn a_cancellation_reaches_every_target() {
        let (one, other) = (target().await, target().await);
        let proxy = proxy(&[&one, &other]).await;
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let request = b"\0\0\0\x10\x04\xd2\x16\x2epid_key_";
        client.write_all(request).await.unwrap();
        for target in [&one, &other] {
            let mut server = accept(target).await;
            let mut bytes = [0; 16];
            server.read_exact(&mut bytes).await.unwrap();
            assert_eq!(&bytes, request);
        }
        assert_eq!(rest(&mut client).await, b"");
    }

    #[tokio::test]
    async fn targets_take_turns_and_one_that_is_down_is_passed_over() {
        let (one, other, down) = (target().await, target().await, target().await);
        let proxy = proxy(&[&one, &other, &down]).await;
        drop(down);
        let mut clients = Vec::new();
        for _ in 0..6 {
            let mut client = TcpStream::connect(proxy.address()).await.unwrap();
            client.write_all(START).await.unwrap();
            clients.push(client);
        }
        // Six in turn over three: two each, and those of the one that is down go to its neighbour.
        for (target, count) in [(&one, 4), (&other, 2)] {
            for _ in 0..count {
                accept(target).await;
            }
        }
    }
}
