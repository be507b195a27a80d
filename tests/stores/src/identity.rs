//! Somebody who says who others are: tokens that are signed, and the keys to check them, as OpenID Connect has them.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::{Value, json};

use crate::{
    process::HelperError,
    web::{Answer, Web},
};

/// Whom tokens are for.
pub const AUDIENCE: &str = "kubedb";

/// A provider of identities.
pub struct Identity {
    web: Web,
    key: EcdsaKeyPair,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.web).finish()
    }
}

impl Identity {
    /// Starts one with a key of its own.
    pub fn start() -> Result<Self, HelperError> {
        let failed = |reply: &str| HelperError::Refused {
            what: "a key".to_owned(),
            reply: reply.to_owned(),
        };
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|_| failed("not generated"))?;
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random)
                .map_err(|_| failed("not read"))?;
        // A byte that says "not compressed", and two coordinates.
        let point = key.public_key().as_ref();
        let (x, y) = (encoded(&point[1..33]), encoded(&point[33..]));
        let keys = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "one", "x": x, "y": y }] });
        let web = Web::start(None, move |asked| {
            let host = asked
                .head
                .lines()
                .find_map(|line| line.strip_prefix("host: "))
                .unwrap_or_default();
            let body = if asked.head.starts_with("GET /keys") {
                keys.clone()
            } else {
                json!({ "issuer": format!("http://{host}"), "jwks_uri": format!("http://{host}/keys"), "token_endpoint": format!("http://{host}/token"),
                    "authorization_endpoint": format!("http://{host}/authorize"), "response_types_supported": ["id_token"],
                    "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"] })
            };
            Answer {
                status: 200,
                headers: "Content-Type: application/json\r\n".to_owned(),
                body: body.to_string(),
            }
        })?;
        Ok(Self { web, key })
    }

    /// Where programs read what it is and which keys it has.
    #[must_use]
    pub fn configuration(&self) -> String {
        format!("{}/.well-known/openid-configuration", self.web.address())
    }

    /// A token that lives an hour, with further claims.
    pub fn token(&self, claims: &Value) -> Result<String, HelperError> {
        let now = Timestamp::now().as_second();
        let mut all = json!({ "iss": self.web.address(), "aud": AUDIENCE, "sub": "system:serviceaccount:demo:pg", "iat": now, "nbf": now - 60, "exp": now + 3_600 });
        for (name, value) in claims.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": "one" });
        let signed = format!(
            "{}.{}",
            encoded(header.to_string().as_bytes()),
            encoded(all.to_string().as_bytes())
        );
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| HelperError::Refused {
            what: "a token".to_owned(),
            reply: "not signed".to_owned(),
        })?;
        Ok(format!("{signed}.{}", encoded(signature.as_ref())))
    }
}

fn encoded(bytes: &[u8]) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}
