//! A Hub on this machine: the list of a repository, its files, and a second address where large ones are, as the real
//! one sends people to. Each connection serves one request; what was asked is kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use sha1::Sha1;
use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// Contents above this are kept at the second address, by their SHA-256.
const LARGE: usize = 100_000;

/// What the second address does wrong with a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trick {
    /// Closes the connection after so many bytes, once.
    CutOnce(usize),
    /// Falls silent after so many bytes and keeps the connection.
    Stall(usize),
    /// Answers a range with the whole content.
    RefuseRange,
    /// One bit of the content is another.
    WrongBit,
    /// Answers 503, once.
    BusyOnce,
}

/// A request: method, path, range and whether it carried a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) host: &'static str,
    pub(crate) line: String,
    pub(crate) range: Option<String>,
    pub(crate) token: Option<String>,
}

#[derive(Default)]
struct State {
    repositories: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    gated: Vec<String>,
    tricks: BTreeMap<String, Trick>,
    asked: Vec<Asked>,
    second: String,
    /// Connections that fell silent, kept until the end.
    silent: Vec<TcpStream>,
}

/// The running server.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let second = listen("second", &state);
        state.lock().unwrap().second = second;
        Self { address: listen("hub", &state), state }
    }

    pub(crate) fn publish(&self, repository: &str, files: Vec<(&str, Vec<u8>)>) -> &Self {
        let files = files.into_iter().map(|(name, content)| (name.into(), content)).collect();
        self.state.lock().unwrap().repositories.insert(repository.into(), files);
        self
    }

    pub(crate) fn gate(&self, repository: &str) {
        self.state.lock().unwrap().gated.push(repository.into());
    }

    /// From now on `file` (its last name) is served wrongly, or well again.
    pub(crate) fn play(&self, file: &str, trick: Option<Trick>) {
        let tricks = &mut self.state.lock().unwrap().tricks;
        match trick {
            Some(trick) => tricks.insert(file.into(), trick),
            None => tricks.remove(file),
        };
    }

    /// What was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.state.lock().unwrap().asked)
    }

    /// Whether a connection was made to fall silent.
    pub(crate) fn is_silent(&self) -> bool {
        !self.state.lock().unwrap().silent.is_empty()
    }
}

fn listen(host: &'static str, state: &Arc<Mutex<State>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let state = Arc::clone(state);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let state = Arc::clone(&state);
            // A client that was killed closes its end: no matter of the server's.
            thread::spawn(move || drop(serve(host, stream, &state)));
        }
    });
    address
}

fn serve(host: &'static str, mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or(Ok(String::new()))?;
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let asked = Asked {
        host,
        line: format!("{method} {path}"),
        range: headers.get("range").cloned(),
        token: headers.get("authorization").cloned(),
    };
    let mut state = state.lock().unwrap();
    state.asked.push(asked.clone());
    let answer = if host == "hub" { hub(&mut state, path) } else { second(&mut state, path, asked.range.as_deref()) };
    let mut head = format!("HTTP/1.1 {}\r\nconnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    write!(head, "content-length: {}\r\n\r\n", answer.body.len()).unwrap();
    let body = if method == "HEAD" { &[] } else { &answer.body[..answer.cut.unwrap_or(answer.body.len())] };
    if answer.is_silent {
        state.silent.push(stream.try_clone()?);
    }
    drop(state);
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    stream.flush()
}

#[derive(Default)]
struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
    is_silent: bool,
}

fn refuse(status: &'static str, code: &str) -> Answer {
    Answer { status, headers: vec![("x-error-code", code.into())], ..Answer::default() }
}

fn hub(state: &mut State, path: &str) -> Answer {
    if let Some(rest) = path.strip_prefix("/api/models/") {
        let (repository, revision) = rest.split_once("/revision/").unwrap();
        if state.gated.iter().any(|gated| gated == repository) {
            return refuse("401 Unauthorized", "GatedRepo");
        }
        let Some(files) = state.repositories.get(repository) else {
            return refuse("401 Unauthorized", "RepoNotFound");
        };
        if !["main?blobs=true", &format!("{COMMIT}?blobs=true")].contains(&revision) {
            return refuse("404 Not Found", "RevisionNotFound");
        }
        let siblings =
            files.iter().map(|(name, content)| serde_json::json!({"rfilename": name, "size": content.len()}));
        let list = serde_json::json!({"sha": COMMIT, "siblings": siblings.collect::<Vec<_>>()});
        return Answer { status: "200 OK", body: list.to_string().into_bytes(), ..Answer::default() };
    }
    let (repository, file) = path[1..].split_once(&format!("/resolve/{COMMIT}/")).unwrap_or_default();
    let Some(content) = state.repositories.get(repository).and_then(|files| files.get(file)) else {
        return refuse("404 Not Found", "EntryNotFound");
    };
    if content.len() > LARGE {
        let hash = hexadecimal(&Sha256::digest(content));
        let headers = vec![
            ("location", format!("{}/{file}/{hash}", state.second)),
            ("etag", "\"of the redirect\"".into()),
            ("x-linked-etag", format!("\"{hash}\"")),
            ("x-linked-size", content.len().to_string()),
        ];
        return Answer { status: "302 Found", headers, ..Answer::default() };
    }
    let mut git = format!("blob {}\0", content.len()).into_bytes();
    git.extend(content);
    let headers = vec![("etag", format!("\"{}\"", hexadecimal(&Sha1::digest(&git))))];
    Answer { status: "200 OK", headers, body: content.clone(), ..Answer::default() }
}

fn second(state: &mut State, path: &str, range: Option<&str>) -> Answer {
    let (file, hash) = path[1..].rsplit_once('/').unwrap();
    let all = state.repositories.values().flat_map(BTreeMap::values);
    let mut content = all.into_iter().find(|content| hexadecimal(&Sha256::digest(content)) == hash).unwrap().clone();
    let trick = state.tricks.get(file).copied();
    match trick {
        Some(Trick::BusyOnce) => {
            state.tricks.remove(file);
            return refuse("503 Service Unavailable", "");
        }
        Some(Trick::CutOnce(_)) => drop(state.tricks.remove(file)),
        Some(Trick::WrongBit) => content[1000] ^= 1,
        _ => {}
    }
    let cut = match trick {
        Some(Trick::CutOnce(length) | Trick::Stall(length)) => Some(length),
        _ => None,
    };
    let is_silent = matches!(trick, Some(Trick::Stall(_)));
    match range.filter(|_| trick != Some(Trick::RefuseRange)) {
        None => Answer { status: "200 OK", body: content, cut, is_silent, ..Answer::default() },
        Some(range) => {
            let start: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
            let headers = vec![("content-range", format!("bytes {start}-{}/{}", content.len() - 1, content.len()))];
            let body = content.split_off(start);
            let cut = cut.map(|length| length.saturating_sub(start));
            Answer { status: "206 Partial Content", headers, body, cut, is_silent }
        }
    }
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
