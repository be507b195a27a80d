//! Azurite: Azure's Blob Storage.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use jiff::Timestamp;
use ring::hmac;

use crate::{
    certificates::Signed,
    net::{free_port, get, send, tool, wait_until},
    process::{HelperError, Running},
};

/// Account and key of the server. Any base64 will do; this one says what it is.
pub const ACCOUNT: (&str, &str) = ("trial", "b25seSBmb3IgdGVzdHMgb24gdGhpcyBtYWNoaW5l");

/// Version of the protocol that requests name.
const VERSION: &str = "2021-12-02";

/// A server.
#[derive(Debug)]
pub struct Azurite {
    running: Running,
    port: u16,
    objects: PathBuf,
    /// With TLS, and bearer tokens taken.
    signed: Option<Signed>,
}

impl Azurite {
    /// Starts a server below `folder` that has the given containers.
    pub fn start(folder: &Path, containers: &[&str]) -> Result<Self, HelperError> {
        let objects = folder.join("azurite");
        fs::create_dir_all(&objects).map_err(|source| HelperError::Prepare {
            what: "a folder for Azurite".to_owned(),
            source,
        })?;
        let server = Self::start_at(objects, free_port()?, None)?;
        for container in containers {
            server.make_container(container)?;
        }
        Ok(server)
    }

    /// Starts it again with TLS. Then it takes tokens of Azure's directory too, whose signature it does not check.
    pub fn with_tokens(mut self, signed: Signed) -> Result<Self, HelperError> {
        self.running.terminate(Duration::from_secs(10));
        Self::start_at(self.objects.clone(), free_port()?, Some(signed))
    }

    /// Makes a container: a request signed with the account's key.
    fn make_container(&self, container: &str) -> Result<(), HelperError> {
        let date = Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
        let headers = format!("x-ms-date:{date}\nx-ms-version:{VERSION}");
        let (account, key) = ACCOUNT;
        // Twelve empty lines stand for headers that are not sent.
        let text = format!(
            "PUT{}{headers}\n/{account}/{account}/{container}\nrestype:container",
            "\n".repeat(12)
        );
        let key = hmac::Key::new(
            hmac::HMAC_SHA256,
            &BASE64_STANDARD.decode(key).unwrap_or_default(),
        );
        let signature = BASE64_STANDARD.encode(hmac::sign(&key, text.as_bytes()));
        let headers = format!(
            "x-ms-date: {date}\r\nx-ms-version: {VERSION}\r\nAuthorization: SharedKey {account}:{signature}\r\n"
        );
        let path = format!("/{account}/{container}?restype=container");
        let reply = send(self.port, "PUT", &path, &headers).unwrap_or_default();
        if reply.contains(" 201 ") {
            Ok(())
        } else {
            Err(HelperError::Refused {
                what: format!("container {container}"),
                reply,
            })
        }
    }

    fn start_at(objects: PathBuf, port: u16, signed: Option<Signed>) -> Result<Self, HelperError> {
        let mut command = Command::new("node");
        command.arg(tool("azurite/node_modules/azurite/dist/src/blob/main.js"));
        if let Some(signed) = &signed {
            let folder = objects.with_file_name("azurite-certificates");
            signed.write(&folder, "certificate.pem", "key.pem")?;
            command
                .args(["--oauth", "basic", "--cert"])
                .arg(folder.join("certificate.pem"))
                .arg("--key")
                .arg(folder.join("key.pem"));
        }
        let running = Running::start(
            command
                .args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"])
                .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
                .arg("--location")
                .arg(&objects)
                .env("AZURITE_ACCOUNTS", format!("{}:{}", ACCOUNT.0, ACCOUNT.1))
                .stderr(Stdio::null()),
        )?;
        // Whoever asks without a signature is refused, which says that it is up.
        let is_secret = signed.is_some();
        wait_until("Azurite", Duration::from_secs(120), || {
            // What is said in the clear to one with TLS is not answered, but taken.
            if is_secret {
                return std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
            }
            get(port, &format!("/{}?comp=list", ACCOUNT.0))
                .is_some_and(|reply| reply.contains("Azurite-Blob"))
        })?;
        Ok(Self {
            running,
            port,
            objects,
            signed,
        })
    }

    /// Where the account answers, as `azure.endpoint` wants it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let scheme = if self.signed.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://127.0.0.1:{}/{}", self.port, ACCOUNT.0)
    }

    /// Stops the server at once, as a power cut would.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Starts it again with the same port and objects.
    pub fn restart(&mut self) -> Result<(), HelperError> {
        self.running.kill();
        *self = Self::start_at(self.objects.clone(), self.port, self.signed.clone())?;
        Ok(())
    }
}
