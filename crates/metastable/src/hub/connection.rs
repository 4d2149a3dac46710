//! Questions to a server of the Hub: addresses, the token, redirects, what its refusals mean.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::Response;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::name::HubName;
use crate::error::{HubError, LabError};

const HUB: &str = "https://huggingface.co";

/// Seconds without a byte after which a server counts as gone; HF_HUB_DOWNLOAD_TIMEOUT changes it.
const PATIENCE: u64 = 10;

/// A server of the Hub and how to talk to it.
pub(super) struct Connection {
    endpoint: String,
    token: Option<String>,
    agent: Agent,
}

/// Why an answer did not come.
pub(super) enum Trouble {
    /// It may come when asked again.
    Passing(String),
    /// It will not.
    Final(LabError),
}

impl From<LabError> for Trouble {
    fn from(error: LabError) -> Self {
        Self::Final(error)
    }
}

impl From<HubError> for Trouble {
    fn from(error: HubError) -> Self {
        Self::Final(error.into())
    }
}

impl Connection {
    /// The server of HF_ENDPOINT with the token of HF_TOKEN or of the file that `hf auth login` writes; proxies as
    /// HTTPS_PROXY says, further roots of trust as SSL_CERT_FILE or REQUESTS_CA_BUNDLE says.
    pub(super) fn of_environment() -> Result<Self, LabError> {
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| HUB.into());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        if !(endpoint.starts_with("https://") || endpoint.starts_with("http://")) {
            let expected = "an address beginning with https:// or http://".into();
            return Err(LabError::Setting { name: "HF_ENDPOINT".into(), expected, found: endpoint });
        }
        let seconds = text("HF_HUB_DOWNLOAD_TIMEOUT").and_then(|text| text.parse().ok()).unwrap_or(PATIENCE);
        let patience = Some(Duration::from_secs(seconds.max(1)));
        let mut config = Agent::config_builder()
            .user_agent(concat!("metastable/", env!("CARGO_PKG_VERSION")))
            .http_status_as_error(false)
            // Redirects are followed here, so that the token stays with the Hub.
            .max_redirects(0)
            .timeout_resolve(patience)
            .timeout_connect(patience)
            .timeout_recv_response(patience)
            .timeout_per_read(patience);
        if let Some(roots) = roots()? {
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Self { endpoint, token: token(), agent: config.build().new_agent() })
    }

    /// The server.
    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The address of the list of a repository's files.
    pub(super) fn listing(&self, name: &HubName) -> String {
        format!("{}/api/models/{}/revision/{}?blobs=true", self.endpoint, name.repository, name.revision)
    }

    /// The address of a file.
    pub(super) fn file(&self, name: &HubName, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, name.repository, escaped(file))
    }

    /// Asks for a content from byte `start` on, following redirects; the token goes to the Hub alone.
    pub(super) fn get(&self, url: &str, start: u64) -> Result<Response<Body>, Trouble> {
        self.ask(url, |url, is_hub| {
            let mut request = self.agent.get(url);
            if start > 0 {
                request = request.header("range", format!("bytes={start}-"));
            }
            self.with_headers(request, is_hub)
        })
    }

    /// Asks what a file is, without following a redirect to where its bytes are: the Hub's own answer has its hash.
    pub(super) fn head(&self, url: &str) -> Result<Response<Body>, Trouble> {
        self.ask(url, |url, is_hub| is_hub.then(|| self.with_headers(self.agent.head(url), true))?)
    }

    /// The headers of every request; some, so that a caller may have no request at all.
    fn with_headers(&self, request: RequestBuilder<WithoutBody>, is_hub: bool) -> Option<RequestBuilder<WithoutBody>> {
        let request = request.header("accept-encoding", "identity");
        let token = self.token.as_ref().filter(|_| is_hub);
        Some(match token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        })
    }

    /// Follows redirects with the requests that `request` makes, until it makes none.
    fn ask(
        &self,
        url: &str,
        request: impl Fn(&str, bool) -> Option<RequestBuilder<WithoutBody>>,
    ) -> Result<Response<Body>, Trouble> {
        const MOST_REDIRECTS: usize = 8;
        let mut url = url.to_owned();
        let mut answer = None;
        for _ in 0..MOST_REDIRECTS {
            let is_hub = origin(&url) == origin(&self.endpoint);
            let Some(request) = request(&url, is_hub) else { break };
            let found = request.call().map_err(|error| trouble(&url, error))?;
            let moved = header(&found, "location").filter(|_| found.status().is_redirection());
            answer = Some(found);
            match moved {
                None => break,
                // Within the server, as after a repository was renamed.
                Some(place) if place.starts_with('/') && !place.starts_with("//") => {
                    url = format!("{}{place}", origin(&url));
                }
                Some(place) => url = place,
            }
        }
        answer.ok_or_else(|| {
            let (expected, found) = ("an answer".into(), "no address of the Hub".into());
            HubError::Answer { url, expected, found }.into()
        })
    }

    /// What an answer other than success means.
    pub(super) fn refusal(&self, name: &HubName, url: &str, answer: &Response<Body>) -> Trouble {
        let (status, code) = (answer.status(), header(answer, "x-error-code").unwrap_or_default());
        let (endpoint, name_) = (self.endpoint.clone(), name.to_string());
        let shown =
            status.canonical_reason().map_or(status.to_string(), |reason| format!("{} {reason}", status.as_u16()));
        let error = match (status.as_u16(), code.as_str()) {
            (_, "RevisionNotFound") => HubError::NoRevision { name: name_, endpoint, revision: name.revision.clone() },
            (_, "GatedRepo") | (403, _) => HubError::Gated { name: name_, endpoint, status: shown },
            (401 | 404, _) => HubError::NoRepository { name: name_, endpoint, status: shown },
            (408 | 425 | 429 | 500..=599, _) => return Trouble::Passing(format!("it answered {shown}")),
            _ => HubError::Answer { url: url.into(), expected: "the file".into(), found: shown },
        };
        error.into()
    }
}

/// A header of an answer.
pub(super) fn header(answer: &Response<Body>, name: &str) -> Option<String> {
    Some(answer.headers().get(name)?.to_str().ok()?.to_owned())
}

/// Whether the environment forbids the network, as HF_HUB_OFFLINE=1 does.
pub(super) fn is_offline() -> bool {
    let is_set = |name| text(name).is_some_and(|value| is_yes(&value));
    is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE")
}

fn is_yes(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

fn trouble(url: &str, error: ureq::Error) -> Trouble {
    use ureq::Error;
    match error {
        // Certificates, addresses and proxies do not mend themselves.
        Error::BadUri(_) | Error::Tls(_) | Error::Rustls(_) | Error::InvalidProxyUrl | Error::Http(_) => {
            let (expected, found) = ("an answer".into(), error.to_string());
            HubError::Answer { url: url.into(), expected, found }.into()
        }
        error => Trouble::Passing(error.to_string()),
    }
}

fn text(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// HF_TOKEN, its older name, or the file of `hf auth login`; none if HF_HUB_DISABLE_IMPLICIT_TOKEN says so.
fn token() -> Option<String> {
    if text("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_yes(&value)) {
        return None;
    }
    let path = |name: &str| env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    let file = || {
        let file = path("HF_TOKEN_PATH")
            .or_else(|| path("HF_HOME").map(|home| home.join("token")))
            .or_else(|| path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/token")))
            .or_else(|| path("HOME").map(|home| home.join(".cache/huggingface/token")))?;
        fs::read_to_string(file).ok()
    };
    let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(file)?;
    Some(token.trim().to_owned()).filter(|token| !token.is_empty())
}

/// The certificates of a file that the environment names.
fn roots() -> Result<Option<RootCerts>, LabError> {
    let named = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"].into_iter().find_map(text);
    let Some(file) = named.map(PathBuf::from).filter(|file| file.is_file()) else { return Ok(None) };
    let bytes = fs::read(&file).map_err(|source| LabError::Read { file: file.clone(), source })?;
    let items: Result<Vec<PemItem<'static>>, _> = parse_pem(&bytes).collect();
    let items = items.map_err(|error| LabError::Content {
        file,
        expected: "certificates in PEM".into(),
        found: error.to_string(),
    })?;
    let certificates = items.into_iter().filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    Ok(Some(RootCerts::from(certificates.collect::<Vec<_>>())))
}

/// Scheme and host of an address.
fn origin(endpoint: &str) -> &str {
    let host = endpoint.find("://").map_or(0, |index| index + 3);
    endpoint[host..].find('/').map_or(endpoint, |index| &endpoint[..host + index])
}

/// A path with everything but letters, digits and `-_.~/` as %XX.
fn escaped(path: &str) -> String {
    let keep = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(byte);
    path.bytes().fold(String::new(), |mut text, byte| {
        if keep(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_apart_and_escaped() {
        assert_eq!(origin("https://a.b:8/c/d"), "https://a.b:8");
        assert_eq!(origin("http://localhost:80"), "http://localhost:80");
        assert_eq!(escaped("a b/é?#.json"), "a%20b/%C3%A9%3F%23.json");
    }

    #[test]
    fn yes_has_the_spellings_of_the_hub() {
        assert!(["1", "on", "Yes", "TRUE"].into_iter().all(is_yes));
        assert!(!["0", "", "off", "no"].into_iter().any(is_yes));
    }
}
