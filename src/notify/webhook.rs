//! A message as a JSON document, posted over HTTP.

use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

use super::{Failure, Settings, Telling, text};

/// For all of one attempt.
const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Poster {
    agent: Agent,
}

impl Poster {
    pub fn new() -> Poster {
        // The host's own certificates: a webhook within the house is signed by the house.
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .root_certs(RootCerts::PlatformVerifier)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("mailwarden/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls)
            .build();
        Poster { agent: config.new_agent() }
    }

    pub fn post(&self, telling: &Telling, settings: &Settings) -> Result<(), Failure> {
        let Some(url) = &settings.config.webhook else { return Ok(()) };
        let body = text::to_json(&telling.notice, &settings.host).to_string();
        let answer = self.agent.post(url).content_type("application/json").header("X-Mailwarden-Id", &telling.id).send(body);
        match answer {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(Failure::Server(format!("the webhook answers {}", answer.status().as_u16()))),
            // The URL may have a secret in it.
            Err(error) => Err(Failure::Server(format!("the webhook: {}", text::visible(&error.to_string(), 300)))),
        }
    }
}
