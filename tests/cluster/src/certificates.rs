//! Certificates and keys of a control plane that lives for one test run.

use std::{fs, net::IpAddr, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use crate::error::StartError;

/// Who a certificate is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder<'a> {
    /// The user, for Kubernetes.
    pub(crate) name: &'a str,
    /// The group, for Kubernetes.
    pub(crate) group: Option<&'a str>,
    /// Names that it serves under.
    pub(crate) names: &'a [&'a str],
    /// Addresses that it serves at.
    pub(crate) addresses: &'a [IpAddr],
}

/// An authority that signs.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes one, with its certificate and key in `ca.crt` and `ca.key`, and the key that signs service accounts in `sa.key` and
    /// `sa.pub`.
    pub(crate) fn write(folder: &Path, name: &str) -> Result<Self, StartError> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = named(name, None);
        let key = KeyPair::generate()?;
        let pem = key.serialize_pem();
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        let accounts = KeyPair::generate()?;
        write(folder, "ca.crt", &issuer.pem())?;
        write(folder, "ca.key", &pem)?;
        write(folder, "sa.key", &accounts.serialize_pem())?;
        write(folder, "sa.pub", &accounts.public_key_pem())?;
        Ok(Self { issuer })
    }

    /// Writes a certificate that serves and calls, `NAME.crt`, and its key, `NAME.key`.
    pub(crate) fn issue(
        &self,
        folder: &Path,
        name: &str,
        holder: Holder<'_>,
    ) -> Result<(), StartError> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = holder.names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        let addresses = holder.addresses.iter().copied().map(SanType::IpAddress);
        params.subject_alt_names.extend(addresses);
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.distinguished_name = named(holder.name, holder.group);
        let certificate = params.signed_by(&key, &self.issuer)?;
        write(folder, &format!("{name}.crt"), &certificate.pem())?;
        write(folder, &format!("{name}.key"), &key.serialize_pem())
    }
}

fn named(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    if let Some(group) = group {
        distinguished.push(DnType::OrganizationName, group);
    }
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn write(folder: &Path, name: &str, text: &str) -> Result<(), StartError> {
    let path = folder.join(name);
    fs::write(&path, text).map_err(StartError::prepare(path))
}
