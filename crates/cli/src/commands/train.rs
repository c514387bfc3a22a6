//! `eagleray train`: the same command on a laptop and as a `RayJob`'s entrypoint.

use eagleray_base::Result;
use eagleray_plan::{Choice, Planned};
use eagleray_spec::Purpose;

use super::SpecArgs;
use crate::output::Output;
use crate::python::{self, Handover};

/// Train, or go on where the run stopped.
#[derive(clap::Args)]
pub(crate) struct Train {
    #[command(flatten)]
    spec: SpecArgs,
    /// Claim the run although another driver seems to be alive
    #[arg(long)]
    take_over: bool,
    /// Build nothing: refuse to train where some data is not built
    #[arg(long)]
    built: bool,
}

impl Train {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let Planned { resolved, choice } = self.spec.plan()?;
        for line in choice.iter().flat_map(Choice::explain) {
            output.note(&line);
        }
        resolved.refuse_unavailable(Purpose::Train)?;
        let handover = Handover::new(&resolved)?;
        let mut arguments = vec!["--resolved".to_owned(), handover.path()];
        if self.take_over {
            arguments.push("--take-over".to_owned());
        }
        if self.built {
            arguments.push("--built".to_owned());
        }
        python::exec("train", &arguments, output)
    }
}
