//! Makes authorities and certificates.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// Clocks of API servers may be this far behind ours.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);

/// Certificate and key, both in PEM.
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// What an authority is told by: it can be made again of these and its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Authority<'a> {
    /// Whose it is, such as `webhook`.
    pub(crate) of: &'a str,
    pub(crate) made: Timestamp,
    pub(crate) expires: Timestamp,
}

/// What a certificate is shown for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// An authority.
pub(crate) fn authority(authority: Authority<'_>) -> Result<Pair, rcgen::Error> {
    let key = KeyPair::generate()?;
    let certificate = authority_params(authority)?.self_signed(&key)?;
    Ok(Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    })
}

/// A certificate, signed by the authority that has this key.
pub(crate) fn certificate(
    (authority, key): (Authority<'_>, &str),
    side: Side,
    names: &[String],
    made: Timestamp,
    expires: Timestamp,
) -> Result<Pair, rcgen::Error> {
    let params = authority_params(authority)?;
    let issuer = Issuer::new(params, KeyPair::from_pem(key)?);
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names.to_vec())?;
    params.extended_key_usages = vec![match side {
        Side::Server => ExtendedKeyUsagePurpose::ServerAuth,
        Side::Client => ExtendedKeyUsagePurpose::ClientAuth,
    }];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let name = names.first().map_or("kubedb", String::as_str);
    params.distinguished_name.push(DnType::CommonName, name);
    set_times(&mut params, made, expires);
    Ok(Pair {
        certificate: params.signed_by(&key, &issuer)?.pem(),
        key: key.serialize_pem(),
    })
}

/// Each has a name of its own: two of one name in a bundle would be taken for each other.
fn authority_params(authority: Authority<'_>) -> Result<CertificateParams, rcgen::Error> {
    let Authority { of, made, expires } = authority;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(
        DnType::CommonName,
        format!("kubedb {of} authority {}", made.as_millisecond()),
    );
    set_times(&mut params, made, expires);
    Ok(params)
}

fn set_times(params: &mut CertificateParams, made: Timestamp, expires: Timestamp) {
    let at = |time: Timestamp| {
        let since = Duration::try_from(time.duration_since(Timestamp::UNIX_EPOCH));
        date_time_ymd(1970, 1, 1) + since.unwrap_or_default()
    };
    params.not_before = at(made - BACKDATED);
    params.not_after = at(expires);
}
