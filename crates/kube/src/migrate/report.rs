//! What a person gets: the spec with a heading, the Dockerfile, the loss report.

use std::fmt::Write as _;

use super::account::{Fate, Field};
use super::document::Document;
use super::draft::Draft;
use super::{Migration, RAY_VERSION, Run, SPEC_FILE};

/// Gathers what a job became.
pub(super) fn run(document: &Document, draft: &Draft, fields: Vec<Field>) -> Run {
    let (kind, _) = document.kind();
    let live = document.root.line == 0;
    let file = if live { &document.file } else { document.file.rsplit('/').next().unwrap_or_default() };
    let yaml = serde_saphyr::to_string(&draft.spec()).unwrap_or_default();
    let heading = format!(
        "# From the {kind} `{}` of {file}, by `eagleray migrate`; migration.md beside it tells what became of\n# every field.\n",
        document.name()
    );
    Run {
        name: draft.name.clone(),
        file: document.file.clone(),
        line: document.root.line,
        kind: kind.to_owned(),
        nodes: draft.nodes,
        workers: draft.workers,
        image: draft.new_image(),
        spec: heading + &yaml,
        dockerfile: dockerfile(draft),
        next: next(draft),
        fields,
    }
}

fn dockerfile(draft: &Draft) -> String {
    let mut text = format!(
        "# The job's image with Ray and Eagle Ray; it needs Python 3.11 or later.\nFROM {}\nRUN pip install \"ray[train]=={RAY_VERSION}\" eagleray\n",
        draft.image
    );
    if !draft.before.is_empty() {
        text.push_str("# The job did this in each pod before the script. Make it part of the image where it is needed:\n");
        for command in &draft.before {
            let _ = writeln!(text, "# RUN {command}");
        }
    }
    text
}

fn next(draft: &Draft) -> Vec<String> {
    let image = draft.new_image();
    let mut next = vec![format!(
        "make the image: `docker build -t {image} . && docker push {image}`; change `cluster.eks.image` where you push elsewhere"
    )];
    if !draft.secrets.is_empty() {
        let (name, namespace) = (&draft.name, draft.namespace.as_deref().unwrap_or("default"));
        let keys: Vec<String> = draft.secrets.iter().map(|key| format!(" --from-literal={key}=…")).collect();
        next.push(format!(
            "make the secret that `cluster.eks.env_from` names: `kubectl -n {namespace} create secret generic {name}-secrets{}`",
            keys.concat()
        ));
    }
    next.extend(draft.next.iter().cloned());
    next.push(format!(
        "`eagleray check {SPEC_FILE}`, then `eagleray render {SPEC_FILE}` writes the manifests"
    ));
    next
}

/// The loss report of a run, for people.
pub(super) fn markdown(migration: &Migration, run: &Run) -> String {
    let live = run.line == 0;
    let line = if live { String::new() } else { format!(", line {}", run.line) };
    let mut text = format!(
        "# {}: from {} to Eagle Ray\n\nFrom `{}`{line}: {} nodes, {} workers.\n\n## What is left to do\n",
        run.name, run.kind, run.file, run.nodes, run.workers
    );
    for (index, step) in run.next.iter().enumerate() {
        let _ = writeln!(text, "{}. {step}", index + 1);
    }
    text.push_str("\n## What became of every field\n");
    for (fate, title, column) in [
        (Fate::Lost, "Lost", "what to do"),
        (Fate::Replaced, "Replaced", "by what"),
        (Fate::Carried, "Carried", "where to"),
    ] {
        let fields: Vec<&Field> = run.fields.iter().filter(|field| field.fate == fate).collect();
        if fields.is_empty() {
            continue;
        }
        let (head, rule) = if live { ("", "") } else { ("| line ", "| --- ") };
        let _ = write!(
            text,
            "\n### {title}: {}\n{head}| field | {column} |\n{rule}| --- | --- |\n",
            fields.len()
        );
        for field in fields {
            let part = field.part.as_ref().map(|part| format!(" {}", code(part))).unwrap_or_default();
            let reason =
                [field.to.as_deref().map(code), Some(field.why.clone()).filter(|why| !why.is_empty())];
            let reason: Vec<String> = reason.into_iter().flatten().collect();
            let line = if live { String::new() } else { format!("| {} ", field.line) };
            let _ = writeln!(text, "{line}| {}{part} | {} |", code(&field.path), reason.join(": "));
        }
    }
    let others = migration.others.iter().filter(|other| other.file == run.file);
    let rows: Vec<String> = others
        .map(|other| {
            let why = other
                .fields
                .iter()
                .find(|field| !field.why.is_empty())
                .map_or("", |field| field.why.as_str());
            format!("| {} | {} | {why} |\n", other.kind, other.name)
        })
        .collect();
    if !rows.is_empty() {
        let _ = write!(
            text,
            "\n## Other objects of the file\n| kind | name | what becomes of it |\n| --- | --- | --- |\n{}",
            rows.concat()
        );
    }
    text
}

/// In backquotes, fit for a cell of a table.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|").replace('\n', " ").replace('`', "'"))
}

impl Migration {
    /// The loss report of a run as Markdown.
    pub fn markdown(&self, run: &Run) -> String {
        markdown(self, run)
    }
}

impl Run {
    /// How many fields had each fate: carried, replaced, lost.
    pub fn counts(&self) -> [usize; 3] {
        [Fate::Carried, Fate::Replaced, Fate::Lost]
            .map(|fate| self.fields.iter().filter(|field| field.fate == fate).count())
    }
}
