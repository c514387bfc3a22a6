//! What became of every field: the loss report, kept so that nothing can be left out of it.
//!
//! An [`Account`] begins with every leaf of a document and no fate for any. Reading a field gives it one;
//! what nobody read is lost, and said so. A second fate for the same leaf is dropped, so that a rule for
//! one field may be followed by a rule for all around it.

use serde::Serialize;

use super::document::{Document, Node, join};

/// What became of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It stands in the run spec, or in the Dockerfile.
    Carried,
    /// The product does what it was for.
    Replaced,
    /// Nothing does what it was for until somebody does.
    Lost,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub struct Field {
    /// Where it stood: `spec.pytorchReplicaSpecs.Worker.replicas`.
    pub path: String,
    /// The line of the file.
    pub line: usize,
    /// The word of a command, where a field holds several; never a secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// What became of it.
    pub fate: Fate,
    /// The key of the run spec, where it is carried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why; what to do, where it is lost.
    pub why: String,
}

/// A fate with its reason.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    fate: Fate,
    to: Option<String>,
    why: String,
}

impl Verdict {
    /// It stands at `to` now.
    pub(super) fn carried(to: impl Into<String>) -> Self {
        Self { fate: Fate::Carried, to: Some(to.into()), why: String::new() }
    }

    /// The product does it: why.
    pub(super) fn replaced(why: impl Into<String>) -> Self {
        Self { fate: Fate::Replaced, to: None, why: why.into() }
    }

    /// It is gone: what to do.
    pub(super) fn lost(what_to_do: impl Into<String>) -> Self {
        Self { fate: Fate::Lost, to: None, why: what_to_do.into() }
    }

    /// Adds what is to be known of it.
    pub(super) fn because(mut self, why: impl Into<String>) -> Self {
        self.why = why.into();
        self
    }
}

/// The leaves of one document and their fates.
#[derive(Debug)]
pub(super) struct Account {
    leaves: Vec<(String, usize, Vec<Field>)>,
}

impl Account {
    pub(super) fn new<'a>(documents: impl IntoIterator<Item = &'a Document>) -> Self {
        let mut account = Self { leaves: Vec::new() };
        for document in documents {
            document.root.leaves(&document.prefix, &mut |path, node| {
                let nothing = Verdict::replaced("nothing is written there, so Kubernetes drops it");
                let fates =
                    if node.is_null() { vec![field(&path, node.line, None, &nothing)] } else { Vec::new() };
                account.leaves.push((path, node.line, fates));
            });
        }
        account
    }

    /// Gives a fate to all below `path` that has none yet.
    pub(super) fn mark(&mut self, path: &str, verdict: &Verdict) {
        for (leaf, line, fates) in &mut self.leaves {
            if fates.is_empty() && is_below(leaf, path) {
                fates.push(field(leaf, *line, None, verdict));
            }
        }
    }

    /// Gives a fate to a word of the field at `path`.
    pub(super) fn part(&mut self, path: &str, part: &str, verdict: &Verdict) {
        for (leaf, line, fates) in &mut self.leaves {
            if leaf == path && fates.iter().all(|field| field.part.as_deref() != Some(part)) {
                fates.push(field(leaf, *line, Some(part.to_owned()), verdict));
            }
        }
    }

    /// The line of the field at `path`.
    pub(super) fn line(&self, path: &str) -> Option<usize> {
        self.leaves.iter().find(|(leaf, ..)| leaf == path).map(|(_, line, _)| *line)
    }

    /// Every field in the order of the file; what has no fate yet gets `rest`.
    pub(super) fn close(mut self, rest: &Verdict) -> Vec<Field> {
        for (leaf, line, fates) in &mut self.leaves {
            if fates.is_empty() {
                fates.push(field(leaf, *line, None, rest));
            }
        }
        self.leaves.into_iter().flat_map(|(_, _, fates)| fates).collect()
    }
}

fn field(path: &str, line: usize, part: Option<String>, verdict: &Verdict) -> Field {
    let Verdict { fate, to, why } = verdict.clone();
    Field { path: path.to_owned(), line, part, fate, to, why }
}

/// Whether `leaf` is at `path` or within it.
fn is_below(leaf: &str, path: &str) -> bool {
    path.is_empty()
        || leaf.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// A place in a document: its path and what stands there.
#[derive(Clone, Debug)]
pub(super) struct Spot<'a> {
    pub(super) path: String,
    pub(super) node: &'a Node,
}

impl<'a> Spot<'a> {
    pub(super) fn root(document: &'a Document) -> Self {
        Self { path: document.prefix.clone(), node: &document.root }
    }

    /// The value under `key`, unless it is null.
    pub(super) fn get(&self, key: &str) -> Option<Self> {
        let node = self.node.get(key).filter(|node| !node.is_null())?;
        Some(Self { path: join(&self.path, key), node })
    }

    /// The value under a chain of keys.
    pub(super) fn at(&self, keys: &[&str]) -> Option<Self> {
        keys.iter().try_fold(self.clone(), |spot, key| spot.get(key))
    }

    /// The text under `key`.
    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.node.get(key).and_then(Node::text)
    }

    pub(super) fn entries(&self) -> Vec<(&'a str, Self)> {
        let entries = self.node.entries().iter();
        entries.map(|(key, node)| (key.as_str(), Self { path: join(&self.path, key), node })).collect()
    }

    pub(super) fn items(&self) -> Vec<Self> {
        let items = self.node.items().iter().enumerate();
        items.map(|(index, node)| Self { path: format!("{}[{index}]", self.path), node }).collect()
    }
}
