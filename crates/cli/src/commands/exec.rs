//! `eagleray exec`: a program beside all workers of a run that trains.

use eagleray_base::Result;

use crate::output::Output;
use crate::python;

/// Run a program beside all workers of a running run
#[derive(clap::Args)]
#[command(after_help = "\
Each line of output is shown behind its rank, as in `[3] text`. The exit code is the highest of all ranks; \
Ctrl-C ends the program everywhere. It sees the GPUs of its rank, and in its environment EAGLERAY_RANK, \
EAGLERAY_WORLD and EAGLERAY_WORKER_PID, the process that trains.

  eagleray exec runs/first --once-per-node -- nvidia-smi
  eagleray exec run.yaml --ranks 0 -- sh -c 'py-spy dump --pid $EAGLERAY_WORKER_PID'")]
pub(crate) struct Exec {
    /// The run's store, or its spec
    #[arg(value_name = "RUN")]
    run: String,
    /// Only beside these ranks, such as 0,2-5
    #[arg(long, value_name = "RANKS")]
    ranks: Option<String>,
    /// Only beside the lowest rank of each node
    #[arg(long)]
    once_per_node: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "ARGV")]
    argv: Vec<String>,
}

impl Exec {
    pub(crate) fn run(self, output: &Output) -> Result<()> {
        let mut arguments = vec!["exec".to_owned(), self.run];
        arguments.extend(self.ranks.map(|ranks| format!("--ranks={ranks}")));
        if self.once_per_node {
            arguments.push("--once-per-node".to_owned());
        }
        // One argument each, so that none of them can be taken for an option of ours.
        arguments.extend(self.argv.into_iter().map(|argument| format!("--argument={argument}")));
        python::exec("shell", &arguments, output)
    }
}
