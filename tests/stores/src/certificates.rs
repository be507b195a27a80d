//! Certificates of authorities of our own.

use std::{fs, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::process::HelperError;

/// An authority, and a certificate that it signed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The authority's certificate, in PEM form.
    pub authority: String,
    /// The certificate, in PEM form.
    pub certificate: String,
    /// Its key, in PEM form.
    pub key: String,
}

impl Signed {
    /// Makes both for these names and addresses.
    pub fn of(names: &[&str]) -> Result<Self, HelperError> {
        let failed = |source: rcgen::Error| HelperError::Refused {
            what: "a certificate".to_owned(),
            reply: source.to_string(),
        };
        let authority_key = KeyPair::generate().map_err(failed)?;
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority
            .distinguished_name
            .push(DnType::CommonName, "an authority of tests");
        let signed = authority.self_signed(&authority_key).map_err(failed)?;
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().map_err(failed)?;
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names)
            .and_then(|params| params.signed_by(&key, &issuer))
            .map_err(failed)?;
        Ok(Self {
            authority: signed.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Writes certificate and key under these names.
    pub fn write(&self, folder: &Path, certificate: &str, key: &str) -> Result<(), HelperError> {
        let written = fs::create_dir_all(folder)
            .and_then(|()| fs::write(folder.join(certificate), &self.certificate))
            .and_then(|()| fs::write(folder.join(key), &self.key));
        written.map_err(|source| HelperError::Prepare {
            what: "a certificate".to_owned(),
            source,
        })
    }
}
