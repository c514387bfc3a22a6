//! `eagleray data`: a corpus, before it is built.

use std::path::{Path, PathBuf};

use eagleray_base::{Error, Result, units};
use eagleray_plan::Instance;
use eagleray_plan::prices::Prices;
use eagleray_spec::resolved::Text;
use eagleray_tokens::trial::{self, Asked, Source};
use serde_json::json;

use super::SpecArgs;
use super::plan::outlook::laid;
use crate::output::Output;
use crate::python::{self, Handover};

/// The tokens of a sample where neither a spec nor the user says.
const SEQUENCE_LENGTH: u64 = 4096;

/// A corpus, before it is built.
#[derive(clap::Subcommand)]
pub(crate) enum Data {
    /// Read a slice of a corpus on Ray: what it holds, what is wrong, how fast, how much the whole would take
    Try(Try),
}

impl Data {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        match self {
            Self::Try(command) => command.run(output),
        }
    }
}

/// Read a slice of a corpus.
#[derive(clap::Args)]
pub(crate) struct Try {
    /// Patterns, objects or folders, here or on S3; or a run spec, whose sources are read
    #[arg(value_name = "PATTERN|FOLDER|RUN.YAML", required = true)]
    what: Vec<String>,
    /// Override one value of the spec, such as data.tokenizer=tokens.json; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// A tokenizer.json, or a folder of Hugging Face with one [default: the spec's; without one, reading alone is measured]
    #[arg(long, value_name = "PATH")]
    tokenizer: Option<String>,
    /// The field of a record that holds the text; dots reach into objects
    #[arg(long, value_name = "FIELD", default_value = "text")]
    text: String,
    /// The format of objects whose names do not tell it: jsonl or txt
    #[arg(long = "as", value_name = "FORMAT")]
    stated: Option<String>,
    /// Documents to read at most
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    limit: u64,
    /// Bytes on the store to read, about
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    max_bytes: String,
    /// Documents to show
    #[arg(long, value_name = "K", default_value_t = 3)]
    samples: u32,
    /// Documents with more tokens are long [default: the spec's, or 4096]
    #[arg(long, value_name = "TOKENS")]
    sequence_length: Option<u64>,
    /// Tasks at once; one a CPU of the cluster by default; 0 runs them in one process without Ray
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// The EC2 instance that the whole would be read on
    #[arg(long, value_name = "NAME", default_value = "c7i.8xlarge")]
    instance: String,
    /// A table of prices, YAML or JSON, laid over the one that comes with the program
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// Show the formula and the source of every number of the whole
    #[arg(long)]
    explain: bool,
}

impl Try {
    fn run(self, output: &Output) -> Result<()> {
        Instance::cpu(&self.instance).map_err(|error| error.at("`--instance`"))?;
        let prices = match &self.prices {
            Some(file) => {
                laid(Prices::embedded()?, file)?;
                Some(std::fs::read_to_string(file)?)
            }
            None => None,
        };
        let asked = self.asked(output)?;
        output.note(&format!("looking for objects of {}", self.what.join(", ")));
        let planned = trial::plan(&asked)?;
        let request = json!({
            "trial": planned, "instance": self.instance, "prices": prices, "explain": self.explain,
        });
        let handover = Handover::text(&request.to_string())?;
        let mut arguments = vec!["--request".to_owned(), handover.path()];
        if let Some(cpus) = self.cpus {
            arguments.extend(["--cpus".to_owned(), cpus.to_string()]);
        }
        if output.is_quiet() {
            arguments.push("--quiet".to_owned());
        }
        python::exec("data.trial", &arguments, output)
    }

    fn asked(&self, output: &Output) -> Result<Asked> {
        let bytes_max = units::parse_bytes(&self.max_bytes).map_err(|error| error.at("`--max-bytes`"))?;
        let mut asked = Asked {
            sources: Vec::new(),
            tokenizer: self.tokenizer.clone(),
            documents_max: self.limit,
            bytes_max,
            samples: self.samples,
            sequence_length: self.sequence_length.unwrap_or(SEQUENCE_LENGTH),
        };
        match self.what.as_slice() {
            [spec] if is_spec(spec) => self.of_spec(spec, &mut asked)?,
            _ => {
                if !self.overrides.is_empty() {
                    return Err(Error::invalid("`--set` changes a run spec, and none is given")
                        .with_hint("name a run.yaml in the place of patterns"));
                }
                asked.sources.push(Source {
                    patterns: self.what.clone(),
                    text_field: self.text.clone(),
                    format: self.stated.clone(),
                });
            }
        }
        if asked.tokenizer.is_none() {
            output.note("no `--tokenizer` is given: reading alone is measured");
        }
        Ok(asked)
    }

    fn of_spec(&self, path: &str, asked: &mut Asked) -> Result<()> {
        let spec = SpecArgs { path: path.into(), overrides: self.overrides.clone() };
        let resolved = spec.resolve()?;
        let Some(data) = &resolved.spec.data else {
            return Err(Error::invalid(format!("`{path}` has no `data`")).with_hint("name patterns instead"));
        };
        asked.tokenizer.get_or_insert_with(|| data.tokenizer.clone());
        asked.sequence_length = self.sequence_length.unwrap_or_else(|| u64::from(data.sequence_length));
        for (name, source) in &data.sources {
            let text: Text = serde_json::from_value(source.clone())
                .map_err(|error| Error::internal(format!("`data.sources.{name}`: {error}")))?;
            let Text::Documents { documents, text, chat, format, filters } = text else { continue };
            if chat.is_some() || !filters.is_empty() {
                let what = if chat.is_some() { "chat" } else { "filters" };
                return Err(Error::invalid(format!("`data.sources.{name}`: a try does not read `{what}`"))
                    .with_hint("name the patterns of the other sources in the place of the spec"));
            }
            let format = format.and_then(|format| Some(json!(format).as_str()?.to_owned()));
            asked.sources.push(Source { patterns: documents, text_field: text, format });
        }
        if asked.sources.is_empty() {
            return Err(Error::invalid(format!("`{path}` has no source of documents"))
                .with_hint("its sources are token datasets: `eagleray tokens verify` looks at one"));
        }
        Ok(())
    }
}

fn is_spec(text: &str) -> bool {
    let ending = Path::new(text).extension();
    ending.is_some_and(|ending| ending.eq_ignore_ascii_case("yaml") || ending.eq_ignore_ascii_case("yml"))
}
