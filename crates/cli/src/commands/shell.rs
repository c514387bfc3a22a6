//! `eagleray shell`: a Python prompt on all workers of a run that trains.

use eagleray_base::{Error, Result};

use crate::output::Output;
use crate::python;

/// A Python prompt whose statements run beside all workers of a running run
#[derive(clap::Args)]
#[command(after_help = "\
Each statement runs on a helper beside every worker, in a namespace that stays; equal answers are shown once, \
as in `[0-7] 3`. `here()` says which rank a helper stands beside. A line that begins with `%local` runs in this \
process, where `cluster` is the connection. Statements may also come through a pipe: the exit code is then 1 \
where one failed. The run is not disturbed: helpers hold no resources and go with the prompt.")]
pub(crate) struct Shell {
    /// The run's store, or its spec
    #[arg(value_name = "RUN")]
    run: String,
    /// Only these ranks, such as 0,2-5
    #[arg(long, value_name = "RANKS")]
    ranks: Option<String>,
}

impl Shell {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        if output.is_json() {
            return Err(Error::invalid("a prompt has no JSON form")
                .with_hint("`eagleray exec --format json`, or `eagleray.connect` in Python"));
        }
        let mut arguments = vec!["prompt".to_owned(), self.run];
        arguments.extend(self.ranks.map(|ranks| format!("--ranks={ranks}")));
        python::exec("shell", &arguments, output)
    }
}
