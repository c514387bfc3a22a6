//! What is known of a run while a job is read, and the spec that comes of it.

use eagleray_spec::NAME_CHARS_MAX;
use serde_json::{Map, Value, json};

use super::launcher::{Launch, Launcher, Word};

/// The container that trains, in pods that Ray makes.
pub(super) const CONTAINER: &str = "ray-worker";

/// The name of the one group of nodes.
const GROUP: &str = "workers";

/// What pods want, and where they may stand.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) image: String,
    pub(super) instance: Option<String>,
    pub(super) capacity: Option<&'static str>,
    pub(super) zone: Option<String>,
    pub(super) nodes: u32,
    pub(super) workers: u32,
    /// GPUs of one pod.
    pub(super) gpus: Option<u32>,
    pub(super) efa: Option<u32>,
    pub(super) env: Vec<(String, String)>,
    pub(super) env_from: Vec<Value>,
    /// Mount and claim.
    pub(super) volumes: Vec<(String, String)>,
    /// Laid over the templates of worker pods.
    pub(super) pod: Map<String, Value>,
    pub(super) queue: Option<String>,
    pub(super) labels: Vec<(String, String)>,
    pub(super) max_failures: Option<u32>,
    pub(super) working_directory: Option<String>,
    pub(super) store: Option<String>,
    pub(super) script: Map<String, Value>,
    /// The words of `command` and of `args`.
    pub(super) command: Vec<Word>,
    pub(super) args: Vec<Word>,
    /// Variables whose values must become a secret.
    pub(super) secrets: Vec<String>,
    /// What a shell did before the script, for the image.
    pub(super) before: Vec<String>,
    /// What is left for people to do.
    pub(super) next: Vec<String>,
}

impl Draft {
    /// The mapping at `keys` of the pod template, made where it is not there.
    pub(super) fn pod_map(&mut self, keys: &[&str]) -> &mut Map<String, Value> {
        let mut map = &mut self.pod;
        for key in keys {
            let entry = map.entry((*key).to_owned()).or_insert_with(|| json!({}));
            if !entry.is_object() {
                *entry = json!({});
            }
            let Value::Object(inner) = entry else { unreachable!("made an object above") };
            map = inner;
        }
        map
    }

    /// Adds to a list of the pod's spec.
    pub(super) fn pod_push(&mut self, key: &str, value: Value) {
        let list = self.pod_map(&["spec"]).entry(key.to_owned()).or_insert_with(|| json!([]));
        if let Value::Array(items) = list {
            items.push(value);
        }
    }

    /// The container that trains, in the pod template.
    pub(super) fn container(&mut self) -> &mut Map<String, Value> {
        let list = self.pod_map(&["spec"]).entry("containers").or_insert_with(|| json!([]));
        if let Value::Array(items) = list
            && items.first().is_none_or(|first| first["name"] != CONTAINER)
        {
            items.insert(0, json!({"name": CONTAINER}));
        }
        match list.get_mut(0) {
            Some(Value::Object(first)) => first,
            _ => unreachable!("a container was put first above"),
        }
    }

    /// Adds to a list of the container that trains.
    pub(super) fn container_push(&mut self, key: &str, value: Value) {
        let list = self.container().entry(key.to_owned()).or_insert_with(|| json!([]));
        if let Value::Array(items) = list {
            items.push(value);
        }
    }

    /// Sets a variable; the last of equal names counts, as in Kubernetes.
    pub(super) fn set_env(&mut self, name: &str, value: &str) {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// Takes over what the command says of the script.
    pub(super) fn set_script(&mut self, launch: &Launch) {
        let directory = launch.directory.as_deref().or(self.working_directory.as_deref()).map(str::to_owned);
        let place = |path: &str| joined(directory.as_deref(), path);
        self.script = Map::new();
        let path = place(&launch.script);
        if !path.starts_with('/') {
            self.next.push(format!(
                "write `train.script.path` as an absolute path: the job has `{}`, relative to the working directory of its image",
                launch.script
            ));
        }
        self.script.insert("path".into(), path.into());
        if !launch.args.is_empty() {
            self.script.insert("args".into(), launch.args.clone().into());
        }
        if launch.launcher == Launcher::Accelerate {
            self.script.insert("launcher".into(), "accelerate".into());
        }
        if let Some(config) = &launch.accelerate_config {
            self.script.insert("accelerate_config".into(), place(config).into());
        }
    }

    /// The image that the Dockerfile makes of the job's.
    pub(super) fn new_image(&self) -> String {
        let base = self.image.split('@').next().unwrap_or_default();
        let name_at = base.rfind('/').map_or(0, |slash| slash + 1);
        match base[name_at..].find(':') {
            Some(colon) => {
                let (name, tag) = base.split_at(name_at + colon);
                format!("{name}:{}-eagleray", &tag[1..])
            }
            None => format!("{base}:eagleray"),
        }
    }

    /// The run spec, in the order in which its documentation has the keys.
    pub(super) fn spec(&self) -> Value {
        let mut train = Map::new();
        if let Some(failures) = self.max_failures {
            train.insert("max_failures".into(), failures.into());
        }
        train.insert("script".into(), self.script.clone().into());
        json!({
            "version": eagleray_spec::types::VERSION,
            "name": self.name,
            "store": self.store,
            "train": train,
            "cluster": {"workers": self.workers, "eks": self.eks()},
        })
    }

    fn eks(&self) -> Value {
        let mut group = Map::new();
        group.insert("name".into(), GROUP.into());
        group.insert("instance".into(), self.instance.clone().into());
        if let Some(capacity) = self.capacity {
            group.insert("capacity".into(), capacity.into());
        }
        if let Some(zone) = &self.zone {
            group.insert("zone".into(), zone.clone().into());
        }
        group.insert("nodes".into(), self.nodes.into());
        let mut eks = Map::new();
        eks.insert("namespace".into(), self.namespace.as_deref().unwrap_or("default").into());
        eks.insert("image".into(), self.new_image().into());
        eks.insert("groups".into(), json!([group]));
        let named = |pairs: &[(String, String)]| -> Map<String, Value> {
            pairs.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect()
        };
        let volumes: Vec<Value> =
            self.volumes.iter().map(|(mount, claim)| json!({"mount": mount, "claim": claim})).collect();
        let mut put = |key: &str, value: Value, empty: bool| {
            if !empty {
                eks.insert(key.into(), value);
            }
        };
        put("env", named(&self.env).into(), self.env.is_empty());
        put("env_from", self.env_from.clone().into(), self.env_from.is_empty());
        put("volumes", volumes.into(), self.volumes.is_empty());
        put("pod", self.pod.clone().into(), self.pod.is_empty());
        put("queue", self.queue.clone().into(), self.queue.is_none());
        put("labels", named(&self.labels).into(), self.labels.is_empty());
        eks.into()
    }
}

/// `path` as seen from `directory`.
fn joined(directory: Option<&str>, path: &str) -> String {
    match directory {
        Some(directory) if !path.starts_with('/') => {
            format!("{}/{}", directory.trim_end_matches('/'), path.trim_start_matches("./"))
        }
        _ => path.to_owned(),
    }
}

/// A name for a run out of the name of a job.
pub(super) fn run_name(name: &str) -> String {
    let legal: String =
        name.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let legal = legal.trim_matches('-');
    let legal = if legal.starts_with(|c: char| c.is_ascii_lowercase()) {
        legal.to_owned()
    } else {
        format!("job-{legal}")
    };
    legal[..legal.len().min(NAME_CHARS_MAX)].trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_image_has_a_tag_of_its_own() {
        for (image, new) in [
            ("a.example/team/llm:v1", "a.example/team/llm:v1-eagleray"),
            ("localhost:5000/llm", "localhost:5000/llm:eagleray"),
            ("llm@sha256:0123", "llm:eagleray"),
        ] {
            assert_eq!(Draft { image: image.into(), ..Draft::default() }.new_image(), new);
        }
    }

    #[test]
    fn names_become_legal() {
        assert_eq!(run_name("7B_Model.x"), "job-7b-model-x");
        assert_eq!(run_name(&"a-".repeat(30)).len(), 39);
    }
}
