//! S3 and memory, through the `object_store` crate.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use eagleray_base::units::parse_duration;
use eagleray_base::{Error, Kind, Result};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientOptions, Extensions, ListResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    RetryConfig,
};
use parking_lot::Mutex;

use crate::ObjectInfo;
use crate::credentials;
use crate::failure::{Answered, is_bad_request, is_out_of_range};
use crate::pattern::{Pattern, Place};
use crate::writer::{Multipart, Sink};

/// Servers count bytes in signed integers of 64 bits.
const OFFSET_MAX: u64 = i64::MAX as u64;

/// How long one operation may take with all its retries before it is an error; [`TIMEOUT_VARIABLE`] says otherwise.
const RETRY_TIMEOUT: Duration = Duration::from_mins(2);
const TIMEOUT_VARIABLE: &str = "EAGLERAY_STORE_TIMEOUT";
/// How long one request may take, where an operation may take longer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES_MAX: usize = 8;
/// Each pause is drawn between the first one and so many times the one before. By the crate's own 2 they do not grow on
/// the whole, and eight of them are two seconds: S3 is short of breath for longer when a prefix grows.
const PAUSE_GROWTH: f64 = 3.0;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Folders that a listing by pattern asks for at once; a request takes tens of milliseconds.
const LISTINGS_IN_FLIGHT: usize = 32;

static MEMORIES: LazyLock<Mutex<HashMap<String, Arc<InMemory>>>> = LazyLock::new(Mutex::default);

#[derive(Clone)]
pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    answered: Answered,
    prefix: String,
}

impl Objects {
    pub(crate) fn s3(bucket: &str, prefix: &str) -> Result<Self> {
        let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
        let patience = patience(std::env::var(TIMEOUT_VARIABLE).ok().as_deref())?;
        let options = ClientOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT.min(patience))
            .with_timeout(REQUEST_TIMEOUT.min(patience))
            .with_allow_http(plain);
        let retry = retries(patience);
        let mut builder = AmazonS3Builder::from_env()
            .with_bucket_name(bucket)
            .with_client_options(options.clone())
            .with_retry(retry);
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let forbidden =
            std::env::var("AWS_EC2_METADATA_DISABLED").is_ok_and(|value| value.eq_ignore_ascii_case("true"));
        let store = credentials::settle(builder, options, patience, !forbidden)
            .and_then(AmazonS3Builder::build)
            .map_err(|error| {
                Error::invalid(format!("`s3://{bucket}` cannot be opened: {error}"))
                    .with_hint("look at the `AWS_…` environment variables")
            })?;
        Ok(Self::new(Arc::new(store), prefix))
    }

    pub(crate) fn memory(name: &str, prefix: &str) -> Self {
        let store = MEMORIES.lock().entry(name.to_owned()).or_default().clone();
        let objects = Self::new(store, prefix);
        // There is no bucket that could be missing.
        objects.answered.note();
        objects
    }

    fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Self {
        Self { store, answered: Answered::default(), prefix: prefix.to_owned() }
    }

    pub(crate) fn child(&self, path: &str) -> Self {
        Self { store: Arc::clone(&self.store), answered: self.answered.clone(), prefix: self.key(path) }
    }

    fn key(&self, path: &str) -> String {
        let path = path.trim_matches('/');
        match (self.prefix.is_empty(), path.is_empty()) {
            (true, _) => path.to_owned(),
            (_, true) => self.prefix.clone(),
            _ => format!("{}/{path}", self.prefix),
        }
    }

    fn path(&self, path: &str) -> Path {
        Path::from(self.key(path))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Bytes> {
        let result = self.answered.check(self.store.get(&self.path(path)).await)?;
        self.answered.check(result.bytes().await)
    }

    /// May answer with fewer bytes when the object ends earlier.
    pub(crate) async fn get_range(&self, path: &str, start: u64, length: u64) -> Result<Bytes> {
        let location = self.path(path);
        // No object reaches so far, and servers refuse numbers that they cannot hold.
        if start >= OFFSET_MAX {
            return Ok(Bytes::new());
        }
        match self.store.get_range(&location, start..start.saturating_add(length).min(OFFSET_MAX)).await {
            // Any other failure is not asked about: that would take as long again.
            Err(error) if is_out_of_range(&error) => match self.store.head(&location).await {
                Ok(meta) if meta.size <= start => Ok(Bytes::new()),
                _ => Err(self.answered.failure(error)),
            },
            result => self.answered.check(result),
        }
    }

    pub(crate) async fn head(&self, path: &str) -> Result<Option<ObjectInfo>> {
        let location = self.path(path);
        match self.store.head(&location).await {
            Err(object_store::Error::NotFound { .. }) => {
                self.require_bucket(&location).await?;
                Ok(None)
            }
            // A wrong region or an expired token: a listing is refused for the same cause and says so.
            Err(error) if is_bad_request(&error) => {
                let told = self.store.list(Some(&location)).try_next().await.err();
                Err(self.answered.failure(told.unwrap_or(error)))
            }
            result => Ok(Some(info(path.to_owned(), self.answered.check(result)?))),
        }
    }

    /// The answer to a HEAD has no body, so that a missing bucket looks like a missing object: until the store
    /// has answered anything, a listing tells.
    async fn require_bucket(&self, location: &Path) -> Result<()> {
        if self.answered.yes() {
            return Ok(());
        }
        let listed = self.store.list(Some(location)).try_next().await;
        match listed.map_err(|error| self.answered.failure(error)) {
            // Only a missing bucket has a hint; where the listing did not come, the HEAD has the last word.
            Err(error) if error.kind() == Kind::NotFound && error.hint().is_some() => return Err(error),
            Err(error) if error.kind() == Kind::Unavailable => {}
            // That a listing is forbidden tells as well that there is a bucket.
            Ok(_) | Err(_) => self.answered.note(),
        }
        Ok(())
    }

    pub(crate) async fn put(&self, path: &str, bytes: Bytes) -> Result<()> {
        self.answered.check(self.store.put(&self.path(path), bytes.into()).await).map(drop)
    }

    pub(crate) async fn put_if_absent(&self, path: &str, bytes: Bytes) -> Result<bool> {
        match self.store.put_opts(&self.path(path), bytes.into(), PutMode::Create.into()).await {
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                self.answered.note();
                Ok(false)
            }
            result => self.answered.check(result).map(|_| true),
        }
    }

    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<()> {
        self.answered.check(self.store.copy(&self.path(from), &self.path(to)).await)
    }

    pub(crate) fn writer(&self, path: &str) -> Sink {
        Sink::Object(Multipart::new(Arc::clone(&self.store), self.answered.clone(), self.path(path)))
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let location = self.path(prefix);
        let listed: Vec<ObjectMeta> =
            self.answered.check(self.store.list(Some(&location)).try_collect().await)?;
        Ok(listed.into_iter().map(|meta| info(self.relative(&meta.location), meta)).collect())
    }

    pub(crate) async fn first(&self, prefix: &str) -> Result<Option<ObjectInfo>> {
        let location = self.path(prefix);
        let first = self.answered.check(self.store.list(Some(&location)).try_next().await)?;
        Ok(first.map(|meta| info(self.relative(&meta.location), meta)))
    }

    /// What matches below the root: one request for each folder in which something can match, and one listing
    /// of all that is below where a `**` begins.
    pub(crate) async fn list_matching(&self, pattern: &Pattern) -> Result<Vec<ObjectInfo>> {
        let mut found = Vec::new();
        let mut folders = vec![(self.path(""), pattern.start())];
        while !folders.is_empty() {
            let level = std::mem::take(&mut folders).into_iter();
            let requests = level.map(|(folder, place)| self.list_folder(folder, place, pattern));
            let mut answers = stream::iter(requests).buffer_unordered(LISTINGS_IN_FLIGHT);
            while let Some((objects, below)) = answers.try_next().await? {
                found.extend(objects);
                folders.extend(below);
            }
        }
        Ok(found)
    }

    /// The matches in one folder, and the folders in it in which something can match.
    async fn list_folder(
        &self,
        folder: Path,
        place: Place,
        pattern: &Pattern,
    ) -> Result<(Vec<ObjectInfo>, Vec<(Path, Place)>)> {
        let deep = pattern.goes_deep(&place);
        let listed = if deep {
            let objects = self.store.list(Some(&folder)).try_collect().await;
            objects.map(|objects| ListResult {
                objects,
                common_prefixes: Vec::new(),
                extensions: Extensions::default(),
            })
        } else {
            self.store.list_with_delimiter(Some(&folder)).await
        };
        let listed = self.answered.check(listed)?;
        let place_of = |path: &Path| {
            let names = path.prefix_match(&folder)?;
            Some(names.fold(place.clone(), |place, name| pattern.enter(&place, name.as_ref())))
        };
        // The object that some tools make to show an empty folder is no object in it.
        let objects = listed.objects.into_iter().filter(|meta| {
            meta.location != folder && place_of(&meta.location).is_some_and(|place| pattern.is_match(&place))
        });
        let objects = objects.map(|meta| info(self.relative(&meta.location), meta)).collect();
        let below = listed.common_prefixes.into_iter().filter_map(|path| {
            let place = place_of(&path)?;
            pattern.goes_on(&place).then_some((path, place))
        });
        Ok((objects, below.collect()))
    }

    pub(crate) async fn list_dirs(&self, prefix: &str) -> Result<Vec<String>> {
        let location = self.path(prefix);
        let listed = self.answered.check(self.store.list_with_delimiter(Some(&location)).await)?;
        Ok(listed.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect())
    }

    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        match self.store.delete(&self.path(path)).await {
            Err(object_store::Error::NotFound { .. }) => Ok(()),
            result => self.answered.check(result),
        }
    }

    fn relative(&self, location: &Path) -> String {
        let whole = location.as_ref();
        whole.strip_prefix(&self.prefix).unwrap_or(whole).trim_start_matches('/').to_owned()
    }
}

fn retries(patience: Duration) -> RetryConfig {
    let backoff = BackoffConfig { base: PAUSE_GROWTH, ..BackoffConfig::default() };
    RetryConfig { backoff, max_retries: RETRIES_MAX, retry_timeout: patience }
}

/// How long an operation may take, by what the environment says.
fn patience(said: Option<&str>) -> Result<Duration> {
    match said.filter(|said| !said.is_empty()) {
        None => Ok(RETRY_TIMEOUT),
        Some(said) => match parse_duration(said) {
            Ok(duration) if !duration.is_zero() => Ok(duration),
            _ => Err(Error::invalid(format!("`{TIMEOUT_VARIABLE}` is `{said}`, which is no duration"))
                .with_hint("write a number and a unit: `30s`, `2m`")),
        },
    }
}

fn info(path: String, meta: ObjectMeta) -> ObjectInfo {
    let modified_us = meta.last_modified.timestamp_micros().max(0) as u64;
    ObjectInfo { path, bytes: meta.size, etag: meta.e_tag, modified_us }
}

#[cfg(test)]
mod tests;
