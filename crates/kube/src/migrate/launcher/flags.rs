//! What the flags of launchers become.

const RENDEZVOUS: &str = "Ray Train forms the process group: no rendezvous, address or port is needed";
pub(super) const LOGS: &str = "Ray keeps the output of every worker";

/// What a launcher's flag means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    Nodes,
    Processes,
    ProcessesTotal,
    MaxRestarts,
    AccelerateConfig,
    /// Becomes a variable.
    Variable(&'static str),
    /// The product does it.
    Replaced(&'static str),
    /// The same, and no value follows.
    Switch(&'static str),
    /// A switch that becomes a variable.
    VariableSwitch(&'static str),
    /// Changes what the script is.
    Refused(&'static str),
}

pub(super) const MODULE: &str =
    "`train.script` starts a file: give the path of the module's file instead of its name";

/// Flags of torchrun, with `-` for `_`.
pub(super) const TORCHRUN: [(&str, Flag); 33] = [
    ("--nnodes", Flag::Nodes),
    ("--nproc-per-node", Flag::Processes),
    ("--max-restarts", Flag::MaxRestarts),
    ("--rdzv-backend", Flag::Replaced(RENDEZVOUS)),
    ("--rdzv-endpoint", Flag::Replaced(RENDEZVOUS)),
    ("--rdzv-id", Flag::Replaced(RENDEZVOUS)),
    ("--rdzv-conf", Flag::Replaced(RENDEZVOUS)),
    ("--master-addr", Flag::Replaced(RENDEZVOUS)),
    ("--master-port", Flag::Replaced(RENDEZVOUS)),
    ("--local-addr", Flag::Replaced(RENDEZVOUS)),
    ("--node-rank", Flag::Replaced("Ray Train numbers the workers")),
    ("--standalone", Flag::Switch(RENDEZVOUS)),
    ("--role", Flag::Replaced("all workers of a run are equal")),
    ("--monitor-interval", Flag::Replaced("the driver watches workers itself")),
    ("--start-method", Flag::Replaced("Ray starts the workers")),
    ("--event-log-handler", Flag::Replaced("the ledger holds what happened")),
    ("--signals-to-handle", Flag::Replaced("the driver handles signals")),
    ("--shutdown-timeout", Flag::Replaced("the driver stops workers")),
    ("--log-dir", Flag::Replaced(LOGS)),
    ("--logs-specs", Flag::Replaced(LOGS)),
    ("--redirects", Flag::Replaced(LOGS)),
    ("-r", Flag::Replaced(LOGS)),
    ("--tee", Flag::Replaced(LOGS)),
    ("-t", Flag::Replaced(LOGS)),
    ("--local-ranks-filter", Flag::Replaced(LOGS)),
    ("--duplicate-stdout-filters", Flag::Replaced(LOGS)),
    ("--duplicate-stderr-filters", Flag::Replaced(LOGS)),
    ("--use-env", Flag::Switch("scripts find `LOCAL_RANK` in the environment")),
    ("--run-path", Flag::Switch("the script runs as `__main__`")),
    ("-m", Flag::Refused(MODULE)),
    ("--module", Flag::Refused(MODULE)),
    ("--no-python", Flag::Refused("`train.script` starts a Python file, no other program")),
    ("--virtual-local-rank", Flag::Refused("each worker sees its own local rank: remove the flag")),
];

const PARALLEL: &str = "what Accelerate would lay over the workers is refused with `train.script` (docs/scripts.md): train without it, or by `train.strategy`";

/// Flags of `accelerate launch`, with `-` for `_`.
pub(super) const ACCELERATE: [(&str, Flag); 34] = [
    ("--config-file", Flag::AccelerateConfig),
    ("--num-processes", Flag::ProcessesTotal),
    ("--num-machines", Flag::Nodes),
    ("--max-restarts", Flag::MaxRestarts),
    ("--mixed-precision", Flag::Variable("ACCELERATE_MIXED_PRECISION")),
    ("--gradient-accumulation-steps", Flag::Variable("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")),
    ("--cpu", Flag::VariableSwitch("ACCELERATE_USE_CPU")),
    ("--use-cpu", Flag::VariableSwitch("ACCELERATE_USE_CPU")),
    ("--debug", Flag::VariableSwitch("ACCELERATE_DEBUG_MODE")),
    ("--enable-cpu-affinity", Flag::VariableSwitch("ACCELERATE_CPU_AFFINITY")),
    ("--multi-gpu", Flag::Switch("`cluster.workers` says how many there are")),
    ("--machine-rank", Flag::Replaced("Ray Train numbers the workers")),
    ("--main-process-ip", Flag::Replaced(RENDEZVOUS)),
    ("--main-process-port", Flag::Replaced(RENDEZVOUS)),
    ("--rdzv-backend", Flag::Replaced(RENDEZVOUS)),
    ("--rdzv-conf", Flag::Replaced(RENDEZVOUS)),
    ("--same-network", Flag::Switch(RENDEZVOUS)),
    ("--deepspeed-multinode-launcher", Flag::Refused(PARALLEL)),
    ("--monitor-interval", Flag::Replaced("the driver watches workers itself")),
    ("--role", Flag::Replaced("all workers of a run are equal")),
    ("--tee", Flag::Replaced(LOGS)),
    ("--log-dir", Flag::Replaced(LOGS)),
    ("--gpu-ids", Flag::Replaced("Ray gives each worker its GPU")),
    ("--quiet", Flag::Switch(LOGS)),
    ("-q", Flag::Switch(LOGS)),
    ("--use-fsdp", Flag::Refused(PARALLEL)),
    ("--use-deepspeed", Flag::Refused(PARALLEL)),
    ("--deepspeed-config-file", Flag::Refused(PARALLEL)),
    ("--use-megatron-lm", Flag::Refused(PARALLEL)),
    ("--use-parallelism-config", Flag::Refused(PARALLEL)),
    ("--tpu", Flag::Refused("TPUs are not available in this build")),
    ("-m", Flag::Refused(MODULE)),
    ("--module", Flag::Refused(MODULE)),
    ("--no-python", Flag::Refused("`train.script` starts a Python file, no other program")),
];
