//! MinIO: S3.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use crate::{
    certificates::Signed,
    identity::AUDIENCE,
    net::{free_port, get, tool, wait_until},
    process::{HelperError, Running},
};

/// What the server takes as access key and as secret key.
pub const KEYS: (&str, &str) = ("trial-access", "trial-secret-key");

/// Settings of a server beside the usual ones.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// With TLS, and this certificate.
    pub signed: Option<Signed>,
    /// The region that it insists on; none takes any.
    pub region: Option<String>,
    /// Address of what an identity provider says of itself; those whom it names may read and write.
    pub identities: Option<String>,
}

/// A server. Its buckets are folders that are there when it starts.
#[derive(Debug)]
pub struct Minio {
    running: Running,
    port: u16,
    objects: PathBuf,
    settings: Settings,
}

impl Minio {
    /// Starts a server below `folder` that has the given buckets.
    pub fn start(folder: &Path, buckets: &[&str]) -> Result<Self, HelperError> {
        Self::start_with(folder, buckets, Settings::default())
    }

    /// The same with other settings.
    pub fn start_with(
        folder: &Path,
        buckets: &[&str],
        settings: Settings,
    ) -> Result<Self, HelperError> {
        let objects = folder.join("minio");
        for bucket in buckets {
            fs::create_dir_all(objects.join(bucket)).map_err(|source| HelperError::Prepare {
                what: format!("bucket {bucket}"),
                source,
            })?;
        }
        Self::start_at(objects, free_port()?, KEYS, settings)
    }

    fn start_at(
        objects: PathBuf,
        port: u16,
        keys: (&str, &str),
        settings: Settings,
    ) -> Result<Self, HelperError> {
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(tool("bin/minio"));
        if let Some(signed) = &settings.signed {
            let folder = objects.with_file_name("minio-certificates");
            signed.write(&folder, "public.crt", "private.key")?;
            command.arg("--certs-dir").arg(folder);
        }
        if let Some(region) = &settings.region {
            command.env("MINIO_SITE_REGION", region);
        }
        if let Some(address) = &settings.identities {
            command
                .env("MINIO_IDENTITY_OPENID_CONFIG_URL", address)
                .env("MINIO_IDENTITY_OPENID_CLIENT_ID", AUDIENCE)
                .env("MINIO_IDENTITY_OPENID_CLAIM_NAME", "policy");
        }
        let running = Running::start(
            command
                .args(["server", "--quiet", "--address", &address])
                .args(["--console-address", &format!("127.0.0.1:{}", free_port()?)])
                .arg(&objects)
                .env("MINIO_ROOT_USER", keys.0)
                .env("MINIO_ROOT_PASSWORD", keys.1)
                .env("MINIO_BROWSER", "off")
                .env("MINIO_UPDATE", "off")
                .env("HOME", objects.parent().unwrap_or(&objects))
                .stderr(Stdio::null()),
        )?;
        wait_until("MinIO", Duration::from_secs(30), || {
            let reply = get(port, "/minio/health/ready");
            // One with TLS says in the clear that it wants no clear text, from the time on that it listens.
            let is_up = if settings.signed.is_some() {
                " 400 "
            } else {
                " 200 "
            };
            reply.is_some_and(|reply| reply.contains(is_up))
        })?;
        Ok(Self {
            running,
            port,
            objects,
            settings,
        })
    }

    /// Where it answers, as `s3.endpoint` wants it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        let scheme = if self.settings.signed.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Folder of the objects of all buckets.
    #[must_use]
    pub fn objects(&self) -> &Path {
        &self.objects
    }

    /// Stops the server at once, as a power cut would.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Starts it again with the same port and objects.
    pub fn restart(&mut self) -> Result<(), HelperError> {
        self.rotate(KEYS)
    }

    /// Starts it again with other keys; the former ones are refused from then on.
    pub fn rotate(&mut self, keys: (&str, &str)) -> Result<(), HelperError> {
        self.running.kill();
        *self = Self::start_at(self.objects.clone(), self.port, keys, self.settings.clone())?;
        Ok(())
    }
}
