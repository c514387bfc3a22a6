//! `eagleray plan`: what a run needs, takes and costs, before it runs.

pub(super) mod outlook;

use std::fmt::Write as _;
use std::path::PathBuf;

use eagleray_base::{Error, Result};
use eagleray_plan::accelerator::{ACCELERATORS, Accelerator, Node, accelerator};
use eagleray_plan::{
    Choice, Device, Layout, Memory, Planned, Recompute, Setting, Shape, Situation, Term, fewest, memory,
};
use eagleray_run::huggingface;
use eagleray_spec::resolved::Model;
use eagleray_spec::types::{Offload, Pipeline, Precision, Strategy, model};
use serde_json::{Value, json};

use super::SpecArgs;
use crate::output::Output;

/// The accelerators of a node, where only their kind is named.
const NODE_ACCELERATORS: u32 = 8;

/// Show what a run needs, takes and costs, before it runs.
#[derive(clap::Args)]
pub(crate) struct Plan {
    /// The run spec
    #[arg(value_name = "RUN.YAML", required_unless_present_any = ["model", "show_prices"])]
    path: Option<PathBuf>,
    /// Override one value of the spec, such as train.steps=200; may be repeated
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// The memory of a device, term by term, and nothing else
    #[arg(long)]
    memory: bool,
    #[command(flatten)]
    asked: outlook::Asked,
    /// A preset instead of a spec, such as 7b, 13b or 70b; may be repeated
    #[arg(long, value_name = "NAME", requires = "memory", conflicts_with_all = ["path", "overrides"])]
    model: Vec<String>,
    /// A preset's strategy, such as zero3 or '{pp: 2, tp: 4}' [default: ddp, fsdp2, zero1, zero2 and zero3]
    #[arg(long, conflicts_with = "path")]
    strategy: Option<Strategy>,
    /// The accelerator, such as A100-80 [default: the spec's, or all the usual ones]
    #[arg(long, value_name = "NAME")]
    accelerator: Option<String>,
    /// The vocabulary of a preset [default: the published model's]
    #[arg(long, conflicts_with = "path")]
    vocab_size: Option<u32>,
    /// The workers of a preset's table
    #[arg(long, default_value_t = 8, conflicts_with = "path")]
    workers: u32,
    /// The tokens of a preset's samples
    #[arg(long, default_value_t = 4096, conflicts_with = "path")]
    sequence_length: u32,
    /// The samples a worker takes through a preset at once
    #[arg(long, default_value_t = 1, conflicts_with = "path")]
    micro_batch: u32,
}

/// One strategy under one recomputation, and one schedule where it has pipeline stages.
struct Row {
    layout: Layout,
    world: u32,
    pipeline: Option<Pipeline>,
    recompute: Recompute,
    memory: Memory,
}

/// A model with its rows.
struct Table {
    name: String,
    shape: Shape,
    setting: Setting,
    rows: Vec<Row>,
    accelerators: Vec<Accelerator>,
    /// What `auto` takes on as few workers as can be, by accelerator and recomputation.
    fewest: Vec<(Accelerator, Recompute, Option<Choice>)>,
    auto: Option<Choice>,
}

impl Plan {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let chosen = self.accelerator.as_deref().map(named).transpose()?;
        if !self.memory {
            return self.asked.run(self.path, self.overrides, chosen, output);
        }
        let tables = match &self.path {
            Some(path) => {
                let spec = SpecArgs { path: path.clone(), overrides: self.overrides.clone() };
                vec![of_spec(&spec.plan()?, chosen)?]
            }
            None => self.model.iter().map(|name| self.of_preset(name, chosen)).collect::<Result<_>>()?,
        };
        if output.is_json() {
            let tables: Vec<Value> = tables.iter().map(Table::json).collect();
            output.json(&json!({"memory": tables}));
            return Ok(());
        }
        let shown: Vec<String> = tables.iter().map(Table::show).collect();
        output.print(&shown.join("\n"));
        Ok(())
    }

    fn of_preset(&self, name: &str, chosen: Option<Accelerator>) -> Result<Table> {
        let full = if name.starts_with("llama-") { name.to_owned() } else { format!("llama-{name}") };
        let Some(config) = model::preset(&full) else {
            let known: Vec<String> = model::preset_names().map(|name| format!("`{name}`")).collect();
            return Err(Error::invalid(format!("`{name}` is not a preset"))
                .with_hint(format!("known are {}", known.join(", "))));
        };
        let vocab_size = self.vocab_size.or_else(|| model::published_vocabulary(&full));
        let shape = Shape::new(&config, vocab_size);
        let setting = Setting {
            layout: Layout::Ddp,
            world: self.workers,
            sequence_length: self.sequence_length,
            micro_batch: self.micro_batch,
            global_batch: None,
            precision: Precision::Bf16,
            recompute: Recompute::None,
            pipeline: Pipeline::default(),
            offload: Offload::None,
            device: Device::Gpu,
        };
        let accelerators = chosen.map_or_else(|| ACCELERATORS.to_vec(), |one| vec![one]);
        let mut rows = Vec::new();
        let layouts = match self.strategy {
            None => vec![Layout::Ddp, Layout::Fsdp2, Layout::Zero1, Layout::Zero2, Layout::Zero3],
            Some(strategy) => vec![Layout::of(strategy).ok_or_else(|| {
                Error::invalid("`auto` of a preset is shown as its fewest workers")
                    .with_hint("leave `--strategy` out, or name one")
            })?],
        };
        for layout in layouts {
            rows.extend(rows_of(&shape, &Setting { layout, ..setting })?);
        }
        let mut least = Vec::new();
        for kind in &accelerators {
            let node = Node { accelerator: *kind, num_accelerators: NODE_ACCELERATORS };
            for recompute in Recompute::ALL {
                least.push((*kind, recompute, fewest(&shape, &Setting { recompute, ..setting }, node)));
            }
        }
        Ok(Table { name: full, shape, setting, rows, accelerators, fewest: least, auto: None })
    }
}

fn named(name: &str) -> Result<Accelerator> {
    accelerator(name).ok_or_else(|| {
        let known: Vec<String> = ACCELERATORS.iter().map(|kind| format!("`{}`", kind.name)).collect();
        Error::invalid(format!("`{name}` is not an accelerator that this program knows"))
            .with_hint(format!("known are {}", known.join(", ")))
    })
}

fn of_spec(planned: &Planned, chosen: Option<Accelerator>) -> Result<Table> {
    let mut resolved = planned.resolved.clone();
    if let Some(Model::Huggingface { path, .. }) = &resolved.spec.model {
        let config = huggingface::read(path)?.config;
        resolved = resolved.with_model_config(config);
    }
    let Situation { shape, setting, workers, node } = Situation::of(&resolved)?;
    let mut rows = rows_of(&shape, &setting)?;
    if workers.max != workers.min {
        rows.extend(rows_of(&shape, &Setting { world: workers.max, ..setting })?);
    }
    let kind = chosen.or(node.map(|node| node.accelerator));
    Ok(Table {
        name: planned.resolved.spec.name.clone(),
        shape,
        setting,
        rows,
        accelerators: kind.map_or_else(|| ACCELERATORS.to_vec(), |one| vec![one]),
        fewest: Vec::new(),
        auto: planned.choice.clone(),
    })
}

fn rows_of(shape: &Shape, setting: &Setting) -> Result<Vec<Row>> {
    let (layout, world) = (setting.layout, setting.world);
    let row = |pipeline: Option<Pipeline>, recompute| {
        let given = Setting { recompute, pipeline: pipeline.unwrap_or(setting.pipeline), ..*setting };
        Ok(Row { layout, world, pipeline, recompute, memory: memory(shape, &given)? })
    };
    if !matches!(layout, Layout::Mesh(mesh) if mesh.pp > 1) {
        return Recompute::ALL.into_iter().map(|recompute| row(None, recompute)).collect();
    }
    let mut rows = Vec::new();
    for pipeline in Pipeline::ALL {
        for recompute in Recompute::ALL {
            match row(Some(pipeline), recompute) {
                Ok(row) => rows.push(row),
                // A schedule that the run did not ask for and could not have is no row.
                Err(_) if pipeline != setting.pipeline => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(rows)
}

/// GiB with one digit behind the point.
fn gib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / (1_u64 << 30) as f64)
}

/// Whether it fits with `auto`'s margin, only without it, or not.
fn verdict(bytes: u64, kind: &Accelerator) -> &'static str {
    if bytes <= kind.budget_bytes() {
        "yes"
    } else if bytes <= kind.usable_bytes() {
        "tight"
    } else {
        "no"
    }
}

impl Table {
    fn json(&self) -> Value {
        let fits = |bytes: u64| -> Value {
            let fits =
                self.accelerators.iter().map(|kind| (kind.name.to_owned(), verdict(bytes, kind).into()));
            Value::Object(fits.collect())
        };
        let row = |row: &Row| {
            json!({
                "strategy": row.layout.show(), "workers": row.world, "pipeline": row.pipeline,
                "recompute": row.recompute,
                "memory": row.memory, "fits": fits(row.memory.peak.bytes),
            })
        };
        let least = |(kind, recompute, choice): &(Accelerator, Recompute, Option<Choice>)| json!({"accelerator": kind.name, "recompute": recompute, "choice": choice});
        json!({
            "name": self.name, "model": self.shape, "parameters": self.shape.parameters(),
            "setting": self.setting, "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
            "accelerators": self.accelerators.iter().map(accelerator_json).collect::<Vec<_>>(),
            "fewest": self.fewest.iter().map(least).collect::<Vec<_>>(), "auto": self.auto,
        })
    }

    fn show(&self) -> String {
        let Setting { precision, sequence_length, micro_batch, .. } = self.setting;
        let precision = if precision == Precision::Bf16 { "bf16" } else { "fp32" };
        let mut shown = format!(
            "{} · {:.2} B parameters, vocabulary {} · {precision}, {micro_batch} × {sequence_length} tokens at once\n\n",
            self.name,
            self.shape.parameters() as f64 / 1e9,
            self.shape.vocab_size,
        );
        self.show_rows(&mut shown);
        if let [only] = self.accelerators.as_slice() {
            let (all, usable, budget) =
                (gib(only.memory_bytes), gib(only.usable_bytes()), gib(only.budget_bytes()));
            let _ = writeln!(
                shown,
                "\n{}: {all} GiB, {usable} usable, {budget} with the margin of `auto`",
                only.name
            );
        }
        for line in self.auto.iter().flat_map(Choice::explain) {
            let _ = writeln!(shown, "{line}");
        }
        if !self.fewest.is_empty() {
            self.show_fewest(&mut shown);
        }
        shown
    }

    /// GiB of each term at the fullest moment, and whether that fits.
    fn show_rows(&self, shown: &mut String) {
        let staged = self.rows.iter().any(|row| row.pipeline.is_some());
        let mut lines = vec![vec!["GiB a device".to_owned()]];
        lines[0].extend(staged.then(|| "pipeline".to_owned()));
        lines[0].push("recompute".into());
        lines[0].extend(Term::ALL.map(|term| term.name().to_owned()));
        lines[0].extend(["peak".into(), "at".into()]);
        let offloads = self.rows.iter().any(|row| row.memory.host_bytes > 0);
        lines[0].extend(offloads.then(|| "on the host".to_owned()));
        lines[0].push("fits".into());
        for row in &self.rows {
            let peak = &row.memory.peak;
            let mut line = vec![format!("{} × {}", row.layout.show(), row.world)];
            line.extend(staged.then(|| row.pipeline.map_or("–", Pipeline::name).to_owned()));
            line.push(row.recompute.name().into());
            line.extend(peak.terms.iter().map(|bytes| if *bytes == 0 { "–".into() } else { gib(*bytes) }));
            line.extend([gib(peak.bytes), peak.moment.name().into()]);
            line.extend(offloads.then(|| gib(row.memory.host_bytes)));
            line.push(self.fits(peak.bytes));
            lines.push(line);
        }
        shown.push_str(&aligned(&lines));
    }

    /// The verdict on the only accelerator, or the smallest that holds it with the margin.
    fn fits(&self, bytes: u64) -> String {
        match self.accelerators.as_slice() {
            [only] => verdict(bytes, only).to_owned(),
            several => match several.iter().find(|kind| bytes <= kind.budget_bytes()) {
                Some(smallest) => format!("from {}", smallest.name),
                None => "none".into(),
            },
        }
    }

    fn show_fewest(&self, shown: &mut String) {
        let mut lines = vec![vec!["fewest workers".to_owned()]];
        lines[0].extend(Recompute::ALL.map(|recompute| format!("recompute {}", recompute.name())));
        for kind in &self.accelerators {
            let mut line = vec![kind.name.to_owned()];
            for (_, _, choice) in self.fewest.iter().filter(|(other, _, _)| other.name == kind.name) {
                line.push(choice.as_ref().map_or_else(
                    || "none".into(),
                    |choice| format!("{} × {}", choice.chosen.strategy.show(), choice.world),
                ));
            }
            lines.push(line);
        }
        let _ = write!(shown, "\n{}", aligned(&lines));
    }
}

fn accelerator_json(kind: &Accelerator) -> Value {
    json!({
        "name": kind.name, "memory_bytes": kind.memory_bytes, "usable_bytes": kind.usable_bytes(),
        "budget_bytes": kind.budget_bytes(),
    })
}

/// Columns as wide as their widest cell.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut shown = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let _ = writeln!(shown, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    shown
}
