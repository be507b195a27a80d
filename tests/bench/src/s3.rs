//! The S3 server that all tools write to: MinIO with TLS, which pgBackRest insists on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use kubedb_stores::{net::free_port, process::Running};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::failed;

pub(crate) const BUCKET: &str = "bench";
pub(crate) const KEYS: (&str, &str) = ("bench-access", "bench-secret-key");

/// A running server.
#[derive(Debug)]
pub(crate) struct S3 {
    pub(crate) port: u16,
    /// Certificate of its authority.
    pub(crate) authority: String,
    objects: PathBuf,
    _running: Running,
}

impl S3 {
    /// Starts one below `folder`.
    pub(crate) fn start(folder: &Path) -> Result<Self, String> {
        let (objects, certificates) = (folder.join("objects"), folder.join("certificates"));
        for path in [&objects.join(BUCKET), &certificates] {
            fs::create_dir_all(path).map_err(failed("make a folder of the store"))?;
        }
        let authority = certify(&certificates)?;
        let port = free_port().map_err(|error| error.to_string())?;
        let console = free_port().map_err(|error| error.to_string())?;
        let running = Running::start(
            Command::new("minio")
                .args(["server", "--quiet", "--certs-dir"])
                .arg(&certificates)
                .args(["--address", &format!("127.0.0.1:{port}")])
                .args(["--console-address", &format!("127.0.0.1:{console}")])
                .arg(&objects)
                .env("MINIO_ROOT_USER", KEYS.0)
                .env("MINIO_ROOT_PASSWORD", KEYS.1)
                .env("MINIO_BROWSER", "off")
                .env("MINIO_UPDATE", "off")
                .env("HOME", folder)
                .stderr(Stdio::null()),
        )
        .map_err(|error| error.to_string())?;
        let end = Instant::now() + Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > end {
                return Err("MinIO did not start within 30 s".to_owned());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Self {
            port,
            authority,
            objects,
            _running: running,
        })
    }

    /// Bytes that it holds under a prefix, with its own of each object.
    pub(crate) fn stored(&self, prefix: &str) -> u64 {
        crate::cluster::size(&self.objects.join(BUCKET).join(prefix))
    }

    /// Forgets what lies under a prefix, so that the disk does not fill.
    pub(crate) fn forget(&self, prefix: &str) -> Result<(), String> {
        let path = self.objects.join(BUCKET).join(prefix);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("failed to empty {}: {error}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Writes key and certificate as MinIO wants them; gives the authority's certificate.
fn certify(folder: &Path) -> Result<String, String> {
    let failed = |error: rcgen::Error| format!("failed to make a certificate: {error}");
    let mut authority = CertificateParams::new(Vec::new()).map_err(failed)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().map_err(failed)?;
    let authority = CertifiedIssuer::self_signed(authority, key).map_err(failed)?;
    let key = KeyPair::generate().map_err(failed)?;
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let server = CertificateParams::new(names)
        .and_then(|params| params.signed_by(&key, &authority))
        .map_err(failed)?;
    for (name, text) in [
        ("public.crt", server.pem()),
        ("private.key", key.serialize_pem()),
    ] {
        fs::write(folder.join(name), text).map_err(crate::failed("write a certificate"))?;
    }
    Ok(authority.pem())
}
