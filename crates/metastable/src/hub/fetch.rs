//! Completes the cache: the list of a repository, the choice of its files, each downloaded once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::cache::HubCache;
use super::choose::{self, Choice, Role, TOKENIZER, choose};
use super::connection::{Connection, header, is_offline};
use super::digest::Announced;
use super::name::{HubName, is_plain};
use super::place::{Place, create_parent, files_of};
use super::transfer::{Arrived, Wanted, download, is_there, patiently};
use crate::error::{HubError, LabError};
use crate::watch::{Unwatched, Watcher};

/// Largest accepted list of a repository's files.
const LARGEST_LISTING: u64 = 64 << 20;

/// The files of a model or an adapter, downloaded first if `name` is one of the Hub that the cache does not hold yet.
///
/// A complete snapshot is used without asking the network whether a branch has moved: results stay what they were.
/// HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the variables of [`HubCache::of_environment`] are honoured.
/// `offline` forbids the network whatever they say.
///
/// # Errors
/// [`LabError::UnknownModel`] if it is neither a path nor in the cache and the network may not be asked;
/// [`LabError::Hub`]; [`LabError::Write`] if the cache cannot be written; [`LabError::Stopped`]. What arrived is kept
/// for the next call, except when its hash is wrong.
///
/// # Example
/// ```
/// use std::path::Path;
/// use metastable::Unwatched;
/// use metastable::hub::{Role, fetch};
///
/// // A path is its own answer.
/// let here = fetch(Path::new("."), Role::Model, false, &mut Unwatched)?;
/// assert_eq!(here, Path::new("."));
/// assert!(fetch(Path::new("no/such-model"), Role::Model, true, &mut Unwatched).is_err());
/// # Ok::<(), metastable::LabError>(())
/// ```
pub fn fetch(name: &Path, role: Role, offline: bool, watcher: &mut dyn Watcher) -> Result<PathBuf, LabError> {
    let cache = HubCache::of_environment();
    // Adapters have an organisation before them; a lone word is a path, and who opens it says that it is not there.
    if name.exists() || role == Role::Adapter && name.components().count() == 1 {
        return Ok(name.into());
    }
    let (Some(folder), Some(hub_name)) = (cache.folder(), HubName::parse(name)) else { return cache.resolve(name) };
    let held = held(&cache, &hub_name, role);
    match held {
        Held::Complete => return cache.resolve(name),
        Held::WithoutTokenizer | Held::No if offline || is_offline() => return cache.resolve_for(name, role),
        _ => {}
    }
    let connection = Connection::of_environment()?;
    let repository = Repository { connection: &connection, name: &hub_name, place: Place::new(folder, &hub_name) };
    match repository.complete(role, watcher) {
        Err(LabError::Hub(error))
            if held == Held::WithoutTokenizer && matches!(*error, HubError::Unreachable { .. }) =>
        {
            watcher.notice(&format!("{hub_name}: the cache has no {TOKENIZER} of it, and the Hub cannot be asked"));
        }
        done => done?,
    }
    cache.resolve(name)
}

/// The files of a model or an adapter that are here already: what [`fetch`] finds without asking a network. Jobs take
/// names and look them up with this, so that reports show what was asked for and never where a cache lies.
pub(crate) fn cached(name: &Path, role: Role) -> Result<PathBuf, LabError> {
    fetch(name, role, true, &mut Unwatched)
}

/// How much of a repository the cache holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Complete,
    /// All but a tokenizer, which the repository may have: other tools download weights alone.
    WithoutTokenizer,
    No,
}

fn held(cache: &HubCache, name: &HubName, role: Role) -> Held {
    let Some(snapshot) = cache.snapshot(name) else { return Held::No };
    let files = files_of(&snapshot);
    let Ok(choice) = choose(&files, name, role) else { return Held::No };
    if let Some(index) = &choice.index {
        let shards = fs::read(snapshot.join(index)).ok().and_then(|bytes| choose::shards(index, &bytes).ok());
        if !shards.is_some_and(|shards| shards.iter().all(|shard| files.contains(shard))) {
            return Held::No;
        }
    }
    let has_tokenizer =
        choice.small.iter().chain(&choice.weights).any(|file| file.ends_with(TOKENIZER) || file.ends_with(".gguf"));
    if role == Role::Adapter || has_tokenizer { Held::Complete } else { Held::WithoutTokenizer }
}

/// What the Hub says of a repository.
#[derive(Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
}

/// A file as the server describes it.
struct Described {
    tag: String,
    size: u64,
}

struct Repository<'a> {
    connection: &'a Connection,
    name: &'a HubName,
    place: Place,
}

impl Repository<'_> {
    /// Downloads what is missing; weights last, the reference at the very end.
    fn complete(&self, role: Role, watcher: &mut dyn Watcher) -> Result<(), LabError> {
        watcher.progress(0.0, &format!("asking {} for {}", self.connection.endpoint(), self.name));
        let listing = patiently(self.connection, self.name, || self.list())?;
        let sizes: BTreeMap<&str, Option<u64>> =
            listing.siblings.iter().map(|sibling| (sibling.rfilename.as_str(), sibling.size)).collect();
        let files: BTreeSet<String> =
            sizes.keys().filter(|file| choose::is_safe(file)).map(|file| (*file).into()).collect();
        let Choice { small, mut weights, index } = choose(&files, self.name, role)?;
        let size = |files: &[String]| files.iter().filter_map(|file| *sizes.get(file.as_str())?).sum::<u64>();
        let mut arrived = Arrived { watcher, bytes: 0, total: size(&small) + size(&weights) };
        for file in &small {
            self.have(&listing.sha, file, &mut arrived)?;
        }
        if let Some(index) = index {
            weights = self.shards(&listing.sha, &index, &files)?;
            arrived.total += size(&weights);
        }
        for file in &weights {
            self.have(&listing.sha, file, &mut arrived)?;
        }
        self.place.set_reference(&self.name.revision, &listing.sha)
    }

    fn list(&self) -> Result<Listing, super::connection::Trouble> {
        let url = self.connection.listing(self.name);
        let answer = self.connection.get(&url, 0)?;
        if !answer.status().is_success() {
            return Err(self.connection.refusal(self.name, &url, &answer));
        }
        let mut text = Vec::new();
        let mut body = answer.into_body().into_reader().take(LARGEST_LISTING);
        body.read_to_end(&mut text).map_err(|error| super::connection::Trouble::Passing(error.to_string()))?;
        let wrong = |found: String| HubError::Answer {
            url: url.clone(),
            expected: "the list of a repository's files".into(),
            found,
        };
        let listing: Listing = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if is_plain(&listing.sha) { Ok(listing) } else { Err(wrong(format!("the commit `{}`", listing.sha)).into()) }
    }

    fn shards(&self, commit: &str, index: &str, files: &BTreeSet<String>) -> Result<Vec<String>, LabError> {
        let path = self.place.snapshot(commit).join(index);
        let bytes = fs::read(&path).map_err(|source| LabError::Read { file: path.clone(), source })?;
        let expected = "a JSON object whose weight_map gives the file of every tensor".to_owned();
        let shards = choose::shards(index, &bytes);
        let shards = shards.map_err(|found| LabError::Content { file: path, expected, found })?;
        match shards.iter().find(|shard| !files.contains(*shard)) {
            None => Ok(shards),
            Some(absent) => Err(HubError::Files {
                name: self.name.to_string(),
                expected: format!("`{absent}`, which its index names"),
                found: "no such file".into(),
                hint: None,
            }
            .into()),
        }
    }

    /// Has one file, by whatever is there already.
    fn have(&self, commit: &str, file: &str, arrived: &mut Arrived<'_>) -> Result<(), LabError> {
        let url = self.connection.file(self.name, commit, file);
        let Described { tag, size } = patiently(self.connection, self.name, || self.describe(&url))?;
        let blob = self.place.blob(&tag);
        create_parent(&blob)?;
        let lock = self.place.lock(&tag, arrived.watcher)?;
        if is_there(&blob, size) {
            arrived.bytes += size;
        } else {
            let announced = Announced::of_tag(&tag);
            download(self.connection, &Wanted { name: self.name, file, url, blob, announced, size }, arrived)?;
        }
        drop(lock);
        arrived.show(file);
        self.place.point(commit, file, &tag)
    }

    fn describe(&self, url: &str) -> Result<Described, super::connection::Trouble> {
        let answer = self.connection.head(url)?;
        if !(answer.status().is_success() || answer.status().is_redirection()) {
            return Err(self.connection.refusal(self.name, url, &answer));
        }
        // Of a redirect, only the linked headers are about the content.
        let own = |name: &str| header(&answer, name).filter(|_| answer.status().is_success());
        let tag = header(&answer, "x-linked-etag").or_else(|| own("etag"));
        let size = header(&answer, "x-linked-size").or_else(|| own("content-length"));
        let tag = tag.map(|tag| tag.trim_start_matches("W/").trim_matches('"').to_owned());
        match (tag, size.and_then(|size| size.parse().ok())) {
            (Some(tag), Some(size)) if is_plain(&tag) && tag.len() <= 128 => Ok(Described { tag, size }),
            (tag, size) => Err(HubError::Answer {
                url: url.into(),
                expected: "an ETag and a length".into(),
                found: format!(
                    "{} and {}",
                    tag.unwrap_or("none".into()),
                    size.map_or("none".into(), |size: u64| size.to_string())
                ),
            }
            .into()),
        }
    }
}
