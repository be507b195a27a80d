//! OpenStack Keystone, version 3, with a project that may have a Swift account.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    net::{free_port, get, header, send_with, tool, wait_until},
    process::{HelperError, Running},
};

/// User, project and domain, as `cargo xtask tools` made them, and the user's password.
pub const USER: &str = "admin";
/// The project.
pub const PROJECT: &str = "admin";
/// The domain of both.
pub const DOMAIN: &str = "Default";
/// The user's password.
pub const PASSWORD: &str = "open-sesame";
/// The region of every endpoint.
pub const REGION: &str = "here";

/// Serves Keystone's own application with what Python has.
const SERVE: &str = "\
import os
from wsgiref.simple_server import WSGIRequestHandler, make_server
from keystone.server.wsgi import initialize_public_application

class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass

make_server('127.0.0.1', int(os.environ['PORT']), initialize_public_application(), handler_class=Quiet).serve_forever()
";

/// A server.
#[derive(Debug)]
pub struct Keystone {
    _running: Running,
    port: u16,
}

impl Keystone {
    /// Starts a server below `folder` whose tokens live so long.
    pub fn start(folder: &Path, token_seconds: u32) -> Result<Self, HelperError> {
        let folder = folder.join("keystone");
        let prepare = |source| HelperError::Prepare {
            what: "a folder for Keystone".to_owned(),
            source,
        };
        copy(&tool("keystone"), &folder).map_err(prepare)?;
        let text = format!(
            "[DEFAULT]\nlog_file = {0}/log\n[database]\nconnection = sqlite:///{0}/keystone.db\n[token]\nprovider = fernet\nexpiration = {token_seconds}\nallow_expired_window = 0\n[fernet_tokens]\nkey_repository = {0}/fernet\n[credential]\nkey_repository = {0}/credential\n[cache]\nenabled = false\n",
            folder.display()
        );
        fs::write(folder.join("keystone.conf"), text).map_err(prepare)?;
        fs::write(folder.join("serve.py"), SERVE).map_err(prepare)?;
        let port = free_port()?;
        let running = Running::start(
            Command::new(tool("swift/bin/python"))
                .args(["-W", "ignore", "serve.py"])
                .current_dir(&folder)
                .env("PORT", port.to_string())
                .env("OS_KEYSTONE_CONFIG_DIR", &folder)
                .env("OS_KEYSTONE_CONFIG_FILES", "keystone.conf")
                .stderr(Stdio::null()),
        )?;
        wait_until("Keystone", Duration::from_secs(60), || {
            get(port, "/v3").is_some_and(|reply| reply.contains(" 200 "))
        })?;
        let server = Self {
            _running: running,
            port,
        };
        server.enter_itself()?;
        Ok(server)
    }

    /// The catalogue was made before the port was known.
    fn enter_itself(&self) -> Result<(), HelperError> {
        let known = self.ask("GET", "/v3/endpoints", &Value::Null)?;
        let id = known["endpoints"][0]["id"].as_str().unwrap_or_default();
        let endpoint = json!({ "endpoint": { "url": self.auth_address() } });
        self.ask("PATCH", &format!("/v3/endpoints/{id}"), &endpoint)
            .map(drop)
    }

    /// Where users log in, as `OS_AUTH_URL` wants it.
    #[must_use]
    pub fn auth_address(&self) -> String {
        format!("http://127.0.0.1:{}/v3", self.port)
    }

    /// Enters a Swift cluster into the catalogue, with the path of a project's account.
    pub fn enter_swift(&self, address: &str) -> Result<(), HelperError> {
        let service = json!({ "service": { "type": "object-store", "name": "swift" } });
        let made = self.ask("POST", "/v3/services", &service)?;
        let id = &made["service"]["id"];
        let url = format!("{address}/v1/AUTH_%(project_id)s");
        let endpoint = json!({ "endpoint": { "interface": "public", "region_id": REGION, "url": url, "service_id": id } });
        self.ask("POST", "/v3/endpoints", &endpoint).map(drop)
    }

    /// A token of the user.
    pub fn token(&self) -> Result<String, HelperError> {
        let reply = self.log_in();
        header(&reply, "x-subject-token").ok_or_else(|| refused("a token", reply))
    }

    /// The project's account in Swift.
    pub fn account(&self) -> Result<String, HelperError> {
        let reply = self.log_in();
        let answer = body(&reply);
        let id = answer["token"]["project"]["id"].as_str().map(str::to_owned);
        id.map(|id| format!("AUTH_{id}"))
            .ok_or_else(|| refused("an account", reply))
    }

    fn log_in(&self) -> String {
        let domain = json!({ "name": DOMAIN });
        let user = json!({ "name": USER, "domain": domain, "password": PASSWORD });
        let identity = json!({ "methods": ["password"], "password": { "user": user } });
        let scope = json!({ "project": { "name": PROJECT, "domain": domain } });
        let login = json!({ "auth": { "identity": identity, "scope": scope } }).to_string();
        let headers = "Content-Type: application/json\r\n";
        send_with(self.port, "POST", "/v3/auth/tokens", headers, &login).unwrap_or_default()
    }

    fn ask(&self, method: &str, path: &str, content: &Value) -> Result<Value, HelperError> {
        let token = self.token()?;
        let headers = format!("Content-Type: application/json\r\nX-Auth-Token: {token}\r\n");
        let content = match content {
            Value::Null => String::new(),
            content => content.to_string(),
        };
        let reply = send_with(self.port, method, path, &headers, &content).unwrap_or_default();
        if reply.contains(" 200 ") || reply.contains(" 201 ") {
            Ok(body(&reply))
        } else {
            Err(refused(path, reply))
        }
    }
}

fn body(reply: &str) -> Value {
    let body = reply.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_default()
}

fn refused(what: &str, reply: String) -> HelperError {
    HelperError::Refused {
        what: what.to_owned(),
        reply,
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
