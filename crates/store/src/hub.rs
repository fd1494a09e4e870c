//! The source [`HuggingFace`](crate::Source::HuggingFace): a file of a repository over HTTP.
//!
//! `HEAD {endpoint}/{repo}/resolve/{revision}/{file}` names the commit (`X-Repo-Commit`), the length
//! (`X-Linked-Size`) and, for large files, the SHA-256 (`X-Linked-ETag`); `GET` of the same file at that commit
//! redirects to a content server that honours `Range`. Why not the `hf-hub` crate: docs/decisions/0003-hf-hub.md.

use std::error::Error;
use std::time::Duration;

use reqwest::header::{ACCEPT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, RANGE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::Sha256;
use crate::blocking::blocking;
use crate::catalogue::MODEL_BYTES_MAX;
use crate::error::SourceError;
use crate::options::Options;
use crate::partial::Partial;

/// What arrives is recorded as a finished segment every so many bytes.
const SEGMENT_BYTES: u64 = 32 << 20;
/// A connection that brought less than this counts as one that brought nothing.
const PROGRESS_BYTES_MIN: u64 = 1 << 20;
/// Received pieces (of some 16 KiB) that wait for the disk.
const PIECES_QUEUED_MAX: usize = 256;
const REDIRECTS_MAX: usize = 10;

/// A file that is wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HubFile<'a> {
    pub(crate) repo: &'a str,
    pub(crate) file: &'a str,
    pub(crate) revision: &'a str,
}

/// What the hub says of it.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    /// The file at a fixed commit.
    url: String,
    pub(crate) bytes: u64,
    /// Known for files in large-file storage, as all weights are.
    pub(crate) sha256: Option<Sha256>,
    /// Names these very bytes, so that an interrupted fetch goes on only from the same.
    pub(crate) origin: String,
}

/// A client of the hub.
pub(crate) struct Hub<'a> {
    options: &'a Options,
    /// Follows redirects within a host only: the first host's headers are what is wanted.
    asking: Client,
    fetching: Client,
}

impl<'a> Hub<'a> {
    pub(crate) fn new(options: &'a Options) -> Result<Self, SourceError> {
        // Fails if a provider is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let secure = options.hub_endpoint.starts_with("https:");
        let build = |policy: Policy| {
            Client::builder()
                .connect_timeout(options.connect_timeout)
                .read_timeout(options.read_timeout)
                .redirect(policy)
                .https_only(secure)
                .user_agent(concat!("tandem/", env!("CARGO_PKG_VERSION")))
                .build()
                .map_err(|error| SourceError::Network {
                    url: options.hub_endpoint.clone(),
                    reason: format!("no HTTP client: {}", reasons(&error)),
                })
        };
        let same_host = Policy::custom(|attempt| {
            let origin = attempt.previous().last().map(|url| url.origin());
            if attempt.previous().len() > REDIRECTS_MAX {
                attempt.error("too many redirects")
            } else if origin.is_some_and(|origin| origin == attempt.url().origin()) {
                attempt.follow()
            } else {
                attempt.stop()
            }
        });
        Ok(Hub { options, asking: build(same_host)?, fetching: build(Policy::limited(REDIRECTS_MAX))? })
    }

    fn url(&self, file: HubFile<'_>, revision: &str) -> String {
        format!("{}/{}/resolve/{revision}/{}", self.options.hub_endpoint, file.repo, file.file)
    }

    fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        // The length and the digest are those of the bytes as they are.
        let request = request.header(ACCEPT_ENCODING, "identity");
        match &self.options.hub_token {
            Some(token) => request.bearer_auth(token.secret()),
            None => request,
        }
    }

    /// Asks what the hub has. A hub that cannot be reached at all is given up at once; another source may do.
    pub(crate) async fn look(&self, file: HubFile<'_>) -> Result<Remote, SourceError> {
        let mut failures = 0;
        loop {
            match self.look_once(file).await {
                Err(error) if error.is_transient() && failures + 1 < self.options.attempts_max => {
                    failures += 1;
                    self.pause(&error, failures).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn look_once(&self, file: HubFile<'_>) -> Result<Remote, SourceError> {
        let url = self.url(file, file.revision);
        let request = self.authorised(self.asking.request(Method::HEAD, &url));
        let response = request.send().await.map_err(|error| transport_error(&url, &error))?;
        let status = response.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(SourceError::Status { url, status: status.as_u16() });
        }
        let headers = response.headers();
        let wrong = |reason: &str| SourceError::Protocol { url: url.clone(), reason: reason.to_owned() };
        let own_length = || text(headers, CONTENT_LENGTH.as_str()).filter(|_| status.is_success());
        let bytes = text(headers, "x-linked-size").or_else(own_length).and_then(|bytes| bytes.parse().ok());
        let bytes: u64 = bytes.ok_or_else(|| wrong("the answer has no length (X-Linked-Size)"))?;
        if bytes == 0 || bytes > MODEL_BYTES_MAX {
            return Err(wrong(&format!("a length of {bytes} bytes is no model's")));
        }
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str()));
        let etag = etag.ok_or_else(|| wrong("the answer has no ETag"))?;
        let etag = etag.trim_start_matches("W/").trim_matches('"');
        let commit = text(headers, "x-repo-commit")
            .filter(|commit| commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()));
        Ok(Remote {
            url: self.url(file, commit.unwrap_or(file.revision)),
            bytes,
            sha256: etag.parse().ok(),
            origin: format!("hugging-face {}/{} {etag}", file.repo, file.file),
        })
    }

    /// Fetches what `partial` lacks, over as many connections as it takes while they bring something.
    pub(crate) async fn fetch(&self, remote: &Remote, mut partial: Partial) -> Result<Partial, SourceError> {
        let mut failures = 0;
        while partial.len() < remote.bytes {
            let before = partial.len();
            let outcome;
            (partial, outcome) = self.fetch_some(remote, partial).await;
            let Err(error) = outcome else { continue };
            if let SourceError::WrongFile { .. } = error {
                partial.restart()?;
            }
            if partial.len() >= before + PROGRESS_BYTES_MIN {
                failures = 0;
            }
            failures += 1;
            let may_pass = error.is_transient() || matches!(error, SourceError::Unreachable { .. });
            if !may_pass || failures >= self.options.attempts_max {
                return Err(error);
            }
            self.pause(&error, failures).await;
        }
        Ok(partial)
    }

    /// One connection. Gives `partial` back with what it brought, finished.
    async fn fetch_some(&self, remote: &Remote, mut partial: Partial) -> (Partial, Result<(), SourceError>) {
        let response = match self.get(remote, partial.len()).await {
            Ok(response) => response,
            Err(error) => return (partial, Err(error)),
        };
        let restart = partial.len() > 0 && response.status() == StatusCode::OK;
        let (sender, mut receiver) = mpsc::channel::<Piece>(PIECES_QUEUED_MAX);
        let writing = blocking(move || {
            let written = write(&mut partial, restart, &mut receiver);
            (partial, written)
        });
        let (received, (partial, written)) = tokio::join!(receive(response, remote, sender), writing);
        let outcome = written.and(received).and_then(|()| match partial.len() {
            len if len < remote.bytes => Err(SourceError::Network {
                url: remote.url.clone(),
                reason: format!("the connection ended at byte {len} of {}", remote.bytes),
            }),
            _ => Ok(()),
        });
        (partial, outcome)
    }

    /// Asks for the bytes from `start` on.
    async fn get(&self, remote: &Remote, start: u64) -> Result<Response, SourceError> {
        let url = &remote.url;
        let mut request = self.authorised(self.fetching.request(Method::GET, url));
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        let response = request.send().await.map_err(|error| transport_error(url, &error))?;
        let range = text(response.headers(), CONTENT_RANGE.as_str()).unwrap_or_default();
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::PARTIAL_CONTENT if range.starts_with(&format!("bytes {start}-")) => Ok(response),
            StatusCode::PARTIAL_CONTENT => Err(SourceError::Protocol {
                url: url.clone(),
                reason: format!("asked for the bytes from {start} on, the server gives {range:?}"),
            }),
            status => Err(SourceError::Status { url: url.clone(), status: status.as_u16() }),
        }
    }

    async fn pause(&self, error: &SourceError, failures: u32) {
        let pause: Duration = self.options.pause(failures);
        tracing::warn!(%error, failures, pause_ms = pause.as_millis() as u64, "the hub will be asked again");
        sleep(pause).await;
    }
}

/// Bytes on their way from the network to the disk.
type Piece = Vec<u8>;

async fn receive(
    mut response: Response,
    remote: &Remote,
    sender: mpsc::Sender<Piece>,
) -> Result<(), SourceError> {
    while let Some(piece) = response.chunk().await.map_err(|error| transport_error(&remote.url, &error))? {
        if sender.send(piece.to_vec()).await.is_err() {
            // The disk refused; its error is the one to report.
            break;
        }
    }
    Ok(())
}

/// Writes until the other side hangs up, be it done or dropped; then all that came is on the disk.
fn write(
    partial: &mut Partial,
    restart: bool,
    receiver: &mut mpsc::Receiver<Piece>,
) -> Result<(), SourceError> {
    if restart {
        partial.restart()?;
    }
    while let Some(piece) = receiver.blocking_recv() {
        partial.append(&piece)?;
        if partial.unfinished() >= SEGMENT_BYTES {
            partial.checkpoint()?;
        }
    }
    if partial.unfinished() > 0 {
        partial.checkpoint()?;
    }
    Ok(())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn transport_error(url: &str, error: &reqwest::Error) -> SourceError {
    let (url, reason) = (url.to_owned(), reasons(error));
    if error.is_connect() {
        SourceError::Unreachable { url, reason }
    } else {
        SourceError::Network { url, reason }
    }
}

/// The causes of an error; reqwest's own words alone say little.
fn reasons(error: &reqwest::Error) -> String {
    let mut reasons = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        reasons.push(error.to_string());
        cause = error.source();
    }
    if reasons.is_empty() { error.to_string() } else { reasons.join(": ") }
}
