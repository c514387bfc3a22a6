//! One cluster, asked and told through its API server.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use eagleray_base::units::format_seconds;
use eagleray_base::{Error, Kind, Result};
use eagleray_store::runtime;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::Resource as _;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams, Preconditions};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::core::{Request, Status};
use serde_json::Value;

use crate::page;
use crate::resource::{POD, Resource};
use crate::tail::Tail;

/// Under this name the API server keeps which fields are ours.
pub const FIELD_MANAGER: &str = "eagleray";

/// How often something that may mend itself is tried, and how long is waited before the second time; then twice that.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// So long an API server may take over one answer. Who has not answered by then is not asked again: that would only
/// take as long.
pub const ANSWER_MAX: Duration = Duration::from_secs(30);

/// An output that is silent for so long is asked for again. Load balancers before API servers, those of EKS among
/// them, forget a connection after about six minutes without a byte.
pub const SILENCE_MAX: Duration = Duration::from_mins(5);

/// So many objects come with one answer: 1,000 pods are ten megabytes otherwise, all at once.
const PAGE: u32 = 250;

/// Which cluster, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// A file; else `$KUBECONFIG`, `~/.kube/config`, or the account of the pod that this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// A context of that file; else its current one.
    pub context: Option<String>,
    /// How long the API server may take over one answer; else [`ANSWER_MAX`].
    pub answer_max: Option<Duration>,
}

/// How objects are applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Apply {
    /// The API server checks, fills in and answers, and keeps nothing.
    pub dry_run: bool,
    /// Takes fields over that others have set.
    pub force: bool,
}

/// One cluster. Everything blocks, and what may mend itself is tried again for some seconds.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    server: String,
    namespace: String,
    answer_max: Duration,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Cluster").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Reads how to reach the cluster; nothing is asked of it yet.
    ///
    /// # Errors
    /// `Invalid` where there is no configuration, or one that cannot be used.
    pub fn connect(connection: &Connection) -> Result<Self> {
        runtime().block_on(async {
            let mut config = config(connection).await?;
            // The client would try fifteen times within each of ours, for minutes and without a word.
            config.default_retry = false;
            let answer_max = connection.answer_max.unwrap_or(ANSWER_MAX);
            // Of its own it has 30 seconds too, and which of the two runs out first is chance.
            config.connect_timeout = Some(answer_max);
            let (server, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
            let client = Client::try_from(config)
                .map_err(|error| Error::invalid(format!("`{server}`: {error}")).with_hint(HINT_CONFIG))?;
            Ok(Self { client, server, namespace, answer_max })
        })
    }

    /// The address of the API server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The namespace of the context.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Applies an object, server-side; its state after.
    ///
    /// # Errors
    /// `Invalid` where the API server refuses it, `Conflict` where others own a field, `Unavailable`.
    pub fn apply(&self, object: &Value, how: Apply) -> Result<Value> {
        let resource = Resource::of(object).ok_or_else(|| {
            Error::internal(format!("`{}` `{}` is not applied here", object["apiVersion"], object["kind"]))
        })?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let api = self.api(resource, object["metadata"]["namespace"].as_str());
        let parameters =
            PatchParams { dry_run: how.dry_run, force: how.force, ..PatchParams::apply(FIELD_MANAGER) };
        let patch = Patch::Apply(object);
        self.ask(resource, name, || api.patch(name, &parameters, &patch)).map(value)
    }

    /// Changes some fields of an object, whoever owns them.
    ///
    /// # Errors
    /// As [`Self::apply`]; `NotFound`.
    pub fn merge(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        change: &Value,
    ) -> Result<Value> {
        let api = self.api(resource, namespace);
        let parameters =
            PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(change);
        self.ask(resource, name, || api.patch(name, &parameters, &patch)).map(value)
    }

    /// An object, or none of that name.
    ///
    /// # Errors
    /// `Invalid` where it may not be read, `NotFound` where the cluster has no such kind, `Unavailable`.
    pub fn get(&self, resource: Resource, namespace: Option<&str>, name: &str) -> Result<Option<Value>> {
        let api = self.api(resource, namespace);
        match self.ask(resource, name, || api.get(name)) {
            Ok(found) => Ok(Some(value(found))),
            Err(error) if error.kind() == Kind::NotFound && error.hint().is_none() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether there is an object of that name; nothing of what is in it is sent.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn exists(&self, resource: Resource, namespace: Option<&str>, name: &str) -> Result<bool> {
        let api = self.api(resource, namespace);
        match self.ask(resource, name, || api.get_metadata(name)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound && error.hint().is_none() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The objects of a namespace, or of all, with these labels (`a=b,c=d`; empty for all).
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn list(&self, resource: Resource, namespace: Option<&str>, labels: &str) -> Result<Vec<Value>> {
        self.select(resource, namespace, &ListParams::default().labels(labels))
    }

    /// The objects with these fields (`involvedObject.uid=…`).
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn list_by_fields(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        fields: &str,
    ) -> Result<Vec<Value>> {
        self.select(resource, namespace, &ListParams::default().fields(fields))
    }

    fn select(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        parameters: &ListParams,
    ) -> Result<Vec<Value>> {
        let api = self.api(resource, namespace);
        let (mut found, mut page) = (Vec::new(), parameters.clone().limit(PAGE));
        loop {
            let list = self.ask(resource, "", || api.list(&page))?;
            found.extend(list.items.into_iter().map(value));
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => return Ok(found),
            }
        }
    }

    /// Tells each object of a list as it is read: with these labels, and these fields.
    ///
    /// No list is ever held: of 1,000 pods, each ten kilobytes and more, hardly anything is wanted.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn each(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        (labels, fields): (&str, &str),
        tell: &mut dyn FnMut(&Value),
    ) -> Result<()> {
        let path = DynamicObject::url_path(&resource.api(), namespace.filter(|_| resource.namespaced));
        let request = Request::new(path);
        let mut page = ListParams::default().limit(PAGE);
        if !labels.is_empty() {
            page = page.labels(labels);
        }
        if !fields.is_empty() {
            page = page.fields(fields);
        }
        loop {
            let text = self.ask(resource, "", || async {
                let request = request.list(&page).map_err(kube::Error::BuildRequest)?;
                self.client.request_text(request).await
            })?;
            let next = page::read(&text, tell).map_err(|error| {
                Error::unavailable(format!("{}: the answer is no list", resource.plural)).with_source(error)
            })?;
            match next.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => return Ok(()),
            }
        }
    }

    /// Deletes this very object, and none that took its name since; at once where `force` is set, without
    /// a word of whoever runs it. False where it was gone.
    ///
    /// # Errors
    /// As [`Self::get`]; `Conflict` where another has its name.
    pub fn delete_exactly(
        &self,
        resource: Resource,
        namespace: Option<&str>,
        name: &str,
        uid: &str,
        force: bool,
    ) -> Result<bool> {
        let api = self.api(resource, namespace);
        let mut parameters =
            if force { DeleteParams::background().grace_period(0) } else { DeleteParams::foreground() };
        parameters.preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
        match self.ask(resource, name, || api.delete(name, &parameters)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound && error.hint().is_none() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes an object once what it owns is gone; false where there was none.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn delete(&self, resource: Resource, namespace: Option<&str>, name: &str) -> Result<bool> {
        let api = self.api(resource, namespace);
        let parameters = DeleteParams::foreground();
        match self.ask(resource, name, || api.delete(name, &parameters)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::NotFound && error.hint().is_none() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The last lines of a container's output.
    ///
    /// # Errors
    /// `NotFound` where there is no such pod, `Invalid` where the container has not started.
    pub fn log(&self, namespace: &str, pod: &str, container: Option<&str>, lines: i64) -> Result<String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let parameters = LogParams {
            container: container.map(str::to_owned),
            tail_lines: Some(lines),
            ..LogParams::default()
        };
        self.ask(POD, pod, || api.logs(pod, &parameters))
    }

    /// Hands a container's output on line by line until it ends, beginning with its last `lines`.
    ///
    /// After so long a silence, and where the connection breaks, it is opened again: [`tail`](crate::tail).
    ///
    /// # Errors
    /// As [`Self::log`]; `Unavailable` where it breaks again and again; what `line` gives.
    pub fn follow(
        &self,
        (namespace, pod, container): (&str, &str, Option<&str>),
        lines: i64,
        silence: Duration,
        line: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        use futures::{AsyncBufReadExt, TryStreamExt};

        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let (mut tail, mut since, mut breaks) = (Tail::default(), None, 0);
        loop {
            let parameters = LogParams {
                container: container.map(str::to_owned),
                tail_lines: since.is_none().then_some(lines),
                since_time: since,
                timestamps: true,
                follow: true,
                ..LogParams::default()
            };
            let stream = self.ask(POD, pod, || api.log_stream(pod, &parameters))?;
            let mut all = stream.lines();
            loop {
                // Outside of what `line` takes: whoever reads slowly is no silence.
                let next = runtime().block_on(async { tokio::time::timeout(silence, all.try_next()).await });
                match next {
                    Ok(Ok(Some(text))) => {
                        if let Some(text) = tail.take(&text) {
                            line(text)?;
                            breaks = 0;
                        }
                    }
                    Ok(Ok(None)) => return Ok(()),
                    Ok(Err(error)) if breaks == TRIES => {
                        return Err(Error::unavailable(format!("the output of pod `{pod}` broke off"))
                            .with_source(error));
                    }
                    Ok(Err(_)) => {
                        breaks += 1;
                        std::thread::sleep(PAUSE);
                        break;
                    }
                    Err(_elapsed) => {
                        breaks = 0;
                        break;
                    }
                }
            }
            since = tail.again();
        }
    }

    /// The version of the API server, `v1.36.3`.
    ///
    /// # Errors
    /// `Invalid` where the credentials are refused, `Unavailable`.
    pub fn version(&self) -> Result<String> {
        let asked = || self.client.apiserver_version();
        Ok(self.ask_as("the version", None, asked)?.git_version)
    }

    /// What a path of the API server answers.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_path(&self, path: &str) -> Result<Value> {
        self.ask_as(path, None, || self.send(http::Request::get(path).body(Vec::new())))
    }

    /// What a Ray cluster answers behind the API server's proxy, with its token where it asks for one. A head that is
    /// starting takes requests and answers none, so there is an end to waiting.
    ///
    /// # Errors
    /// As [`Self::get`]; `Unavailable` where there is no answer in that time.
    pub fn get_behind(&self, path: &str, token: Option<&str>, patience: Duration) -> Result<Value> {
        let asked = || {
            let mut request = http::Request::get(path);
            if let Some(token) = token {
                // The API server takes `Authorization` for itself.
                request = request.header("x-ray-authorization", format!("Bearer {token}"));
            }
            self.send(request.body(Vec::new()))
        };
        runtime().block_on(async {
            let answer = tokio::time::timeout(patience, self.tried(path, None, asked)).await;
            answer.unwrap_or_else(|_elapsed| {
                let seconds = patience.as_secs_f64();
                Err(Error::unavailable(format!("{path}: no answer within {seconds} s"))
                    .with_hint("`eagleray watch` says what the launch waits for"))
            })
        })
    }

    /// Has the API server review something, such as what this account may do.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn review(&self, path: &str, object: &Value) -> Result<Value> {
        self.ask_as(path, None, || {
            let request = http::Request::post(path).header("content-type", "application/json");
            self.send(request.body(object.to_string().into_bytes()))
        })
    }

    async fn send(&self, request: http::Result<http::Request<Vec<u8>>>) -> kube::Result<Value> {
        self.client.request(request.map_err(kube::Error::HttpError)?).await
    }

    fn api(&self, resource: Resource, namespace: Option<&str>) -> Api<DynamicObject> {
        match namespace {
            Some(namespace) if resource.namespaced => {
                Api::namespaced_with(self.client.clone(), namespace, &resource.api())
            }
            _ => Api::all_with(self.client.clone(), &resource.api()),
        }
    }

    fn ask<T, F>(&self, resource: Resource, name: &str, request: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let what =
            if name.is_empty() { resource.plural.to_owned() } else { format!("{} `{name}`", resource.kind) };
        self.ask_as(&what, Some(resource), request)
    }

    /// Everything asked here may be asked twice: reading, applying, deleting.
    fn ask_as<T, F>(&self, what: &str, resource: Option<Resource>, request: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = kube::Result<T>>,
    {
        runtime().block_on(self.tried(what, resource, request))
    }

    async fn tried<T, F>(&self, what: &str, resource: Option<Resource>, request: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = kube::Result<T>>,
    {
        let mut pause = PAUSE;
        for tries in 1.. {
            let asked = Instant::now();
            let answer = tokio::time::timeout(self.answer_max, request()).await;
            // A server that no connection reaches is as silent as one that takes it.
            let again = tries < TRIES && asked.elapsed() < self.answer_max;
            match answer.map_err(|_elapsed| self.silent(what))? {
                Err(error) if again && is_passing(&error) => tokio::time::sleep(pause).await,
                answer => return answer.map_err(|error| self.told(what, resource, error)),
            }
            pause *= 2;
        }
        unreachable!("the last try returns")
    }

    fn silent(&self, what: &str) -> Error {
        let seconds = format_seconds(self.answer_max.as_secs_f64());
        Error::unavailable(format!("`{}` has not answered within {seconds}, asked for {what}", self.server))
            .with_hint(format!("{HINT_AWAY}; `--request-timeout` gives a slow one longer"))
    }

    fn told(&self, what: &str, resource: Option<Resource>, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) => refused(what, resource, &status),
            kube::Error::Auth(error) => {
                Error::invalid(format!("no credentials for `{}`: {error}", self.server))
                    .with_hint(HINT_CREDENTIALS)
            }
            other => Error::unavailable(format!("`{}` does not answer", self.server))
                .with_source(other)
                .with_hint(HINT_AWAY),
        }
    }
}

const HINT_AWAY: &str =
    "`kubectl cluster-info` asks the same server; is this its network, and does the VPN stand?";
const HINT_CONFIG: &str =
    "`aws eks update-kubeconfig --name CLUSTER` writes one; `--kubeconfig` and `--context` choose another";
/// Of an error that a right is missing, and of no other.
pub(crate) const HINT_RIGHTS: &str =
    "`eagleray doctor` lists the rights that are missing, with a Role that gives them";
const HINT_CREDENTIALS: &str =
    "`aws sts get-caller-identity` says who this is; `aws sso login` renews a session";

async fn config(connection: &Connection) -> Result<Config> {
    let options = KubeConfigOptions { context: connection.context.clone(), ..KubeConfigOptions::default() };
    // Behind its first line an error of YAML quotes the lines around it, and those hold tokens.
    let unusable = |error: &dyn fmt::Display| {
        let said = error.to_string();
        let said = said.lines().next().unwrap_or_default();
        Error::invalid(format!("no cluster to talk to: {said}")).with_hint(HINT_CONFIG)
    };
    if let Some(path) = &connection.kubeconfig {
        let file = Kubeconfig::read_from(path)
            .map_err(|error| unusable(&error).at(format!("`{}`", path.display())))?;
        return Config::from_custom_kubeconfig(file, &options).await.map_err(|error| unusable(&error));
    }
    if connection.context.is_some() {
        return Config::from_kubeconfig(&options).await.map_err(|error| unusable(&error));
    }
    Config::infer().await.map_err(|error| unusable(&error))
}

/// Whether the same request may be answered in a moment.
fn is_passing(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, 429 | 500 | 502 | 503 | 504),
        kube::Error::HyperError(_) | kube::Error::Service(_) => true,
        _ => false,
    }
}

fn refused(what: &str, resource: Option<Resource>, status: &Status) -> Error {
    let said = if status.message.is_empty() { &status.reason } else { &status.message };
    let said = said.trim();
    match status.code {
        404 if is_missing_kind(status) => {
            let error = Error::not_found(format!("{what}: the cluster has no such kind"));
            error.with_hint(match resource.and_then(|resource| resource.brought_by()) {
                Some(product) => format!("it comes with {product}; `eagleray doctor` looks at the whole"),
                None => "is this the right cluster? `kubectl config current-context`".to_owned(),
            })
        }
        404 => Error::not_found(format!("{what}: {said}")),
        401 => Error::invalid(format!("{what}: the API server does not know who asks"))
            .with_hint(HINT_CREDENTIALS),
        403 => Error::invalid(format!("{what}: {said}")).with_hint(HINT_RIGHTS),
        409 => Error::conflict(format!("{what}: {said}")),
        429 | 500..=599 => Error::unavailable(format!("{what}: {said}")),
        _ => Error::invalid(format!("{what}: {said}")),
    }
}

/// A 404 of the path, not of the object: there is no such kind.
fn is_missing_kind(status: &Status) -> bool {
    let named = status.details.as_ref().is_some_and(|details| !details.name.is_empty());
    !named && !status.message.contains('"')
}

fn value(object: DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}
