//! The server's certificates: an authority of its own and a key pair for loopback, made once.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Names that the certificate is for.
const NAMES: [&str; 3] = ["127.0.0.1", "::1", "localhost"];

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file.
    #[error("failed to keep {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate that cannot be made.
    #[error("failed to make a certificate")]
    Make(#[from] rcgen::Error),
    /// A file that is none.
    #[error("failed to read {path}: it is not in PEM")]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not fit.
    #[error("failed to use the certificates: remove ca.crt and server.crt to have new ones made")]
    Tls(#[from] rustls::Error),
}

/// What a listener needs, and what its clients need to trust it.
pub(crate) struct Keys {
    pub(crate) tls: Arc<rustls::ServerConfig>,
    /// PEM.
    pub(crate) authority: String,
}

/// Reads `ca.crt`, `ca.key`, `server.crt` and `server.key`; makes what is missing.
pub(crate) fn load_or_make(folder: &Path) -> Result<Keys, KeyError> {
    let file = |name: &str| folder.join(name);
    let authority_key = match (read(&file("ca.key"))?, read(&file("ca.crt"))?) {
        (Some(key), Some(_)) => KeyPair::from_pem(&key)?,
        _ => make_authority(folder)?,
    };
    if read(&file("server.crt"))?.is_none() || read(&file("server.key"))?.is_none() {
        // A start that is killed between the two must not leave a certificate with another's key.
        remove(&file("server.crt"))?;
        let issuer = Issuer::new(authority_params()?, authority_key);
        let key = KeyPair::generate()?;
        let certificate = server_params()?.signed_by(&key, &issuer)?;
        replace(&file("server.key"), &key.serialize_pem())?;
        // The certificate last: with it the pair is whole.
        replace(&file("server.crt"), &certificate.pem())?;
    }
    let authority = read(&file("ca.crt"))?.unwrap_or_default();
    Ok(Keys {
        tls: tls(&file("server.crt"), &file("server.key"))?,
        authority,
    })
}

/// Removes what [`load_or_make`] made.
pub(crate) fn discard(folder: &Path) -> Result<(), KeyError> {
    ["server.crt", "server.key", "ca.crt", "ca.key"]
        .into_iter()
        .try_for_each(|name| remove(&folder.join(name)))
}

fn make_authority(folder: &Path) -> Result<KeyPair, KeyError> {
    // Certificates of another authority would be of no use, and a start that is killed here must not find one beside the new key.
    remove(&folder.join("server.crt"))?;
    remove(&folder.join("ca.crt"))?;
    let key = KeyPair::generate()?;
    let certificate = authority_params()?.self_signed(&key)?;
    replace(&folder.join("ca.key"), &key.serialize_pem())?;
    replace(&folder.join("ca.crt"), &certificate.pem())?;
    Ok(key)
}

/// Always the same, since what is signed later names its issuer by them.
fn authority_params() -> Result<CertificateParams, KeyError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
        .distinguished_name
        .push(DnType::CommonName, "kubedb server authority");
    Ok(params)
}

fn server_params() -> Result<CertificateParams, KeyError> {
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
        .distinguished_name
        .push(DnType::CommonName, "kubedb server");
    Ok(params)
}

fn tls(certificate: &Path, key: &Path) -> Result<Arc<rustls::ServerConfig>, KeyError> {
    let pem = |path: &Path| {
        let path = path.to_path_buf();
        |source| KeyError::Pem { path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem(certificate))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, private)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Option<String>, KeyError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(KeyError::File {
            path: path.into(),
            source,
        }),
    }
}

fn remove(path: &Path) -> Result<(), KeyError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(KeyError::File {
            path: path.into(),
            source,
        }),
        _ => Ok(()),
    }
}

fn replace(path: &Path, text: &str) -> Result<(), KeyError> {
    write_private(path, text).map_err(|source| KeyError::File {
        path: path.into(),
        source,
    })
}

/// Replaces a file as a whole; only its owner may read it.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // Left over by a start that was killed.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the server's certificate is signed by the authority that clients are given.
    fn fits(folder: &Path) -> bool {
        let keys = load_or_make(folder).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        let authority = CertificateDer::from_pem_slice(keys.authority.as_bytes()).unwrap();
        roots.add(authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap();
        let server = CertificateDer::from_pem_file(folder.join("server.crt")).unwrap();
        let now = rustls::pki_types::UnixTime::now();
        let name = "localhost".try_into().unwrap();
        use rustls::client::danger::ServerCertVerifier as _;
        verifier
            .verify_server_cert(&server, &[], &name, &[], now)
            .is_ok()
    }

    #[test]
    fn whatever_is_lost_what_is_made_anew_fits_together() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["ca.key", "ca.crt", "server.key", "server.crt"];
        assert!(fits(folder.path()));
        for lost in 1..1_u32 << files.len() {
            for (bit, file) in files.iter().enumerate() {
                if lost >> bit & 1 == 1 {
                    fs::remove_file(folder.path().join(file)).unwrap();
                }
            }
            assert!(fits(folder.path()), "without {lost:04b}");
        }
    }
}
