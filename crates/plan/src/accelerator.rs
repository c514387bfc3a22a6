//! The usual GPUs, and the EC2 instances that carry them. `docs/memory.md` has sources and dates.

use serde::Serialize;

/// The share of a GPU's memory that tensors may take: the rest is the CUDA context (about half a GiB), the
/// buffers of NCCL (about one GiB on the largest meshes) and what the allocator loses between its blocks.
pub const USABLE_SHARE: f64 = 0.92;

/// The share of usable memory that `auto` leaves free: the model is held to within 10 %.
pub const MARGIN: f64 = 0.10;

const MIB: u64 = 1 << 20;

/// A kind of GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Accelerator {
    /// `A100-40`.
    pub name: &'static str,
    /// The memory that its driver reports.
    pub memory_bytes: u64,
}

impl Accelerator {
    /// What tensors may take.
    pub fn usable_bytes(&self) -> u64 {
        (self.memory_bytes as f64 * USABLE_SHARE) as u64
    }

    /// The vendor's dense bf16 figure, in FLOP/s: that of the device that EC2 carries (docs/metrics.md).
    pub fn peak_bf16_flops(&self) -> f64 {
        match self.name {
            "A10G" => 70e12,
            "L4" => 121e12,
            "L40S" => 362.05e12,
            "A100-40" | "A100-80" => 312e12,
            "H100" | "H200" => 989e12,
            "B200" => 2250e12,
            name => unreachable!("`{name}` stands in the table without a peak"),
        }
    }

    /// What `auto` fills at most.
    pub fn budget_bytes(&self) -> u64 {
        (self.usable_bytes() as f64 * (1.0 - MARGIN)) as u64
    }
}

/// The usual GPUs, the smallest first.
pub const ACCELERATORS: [Accelerator; 8] = [
    Accelerator { name: "A10G", memory_bytes: 23_028 * MIB },
    Accelerator { name: "L4", memory_bytes: 23_034 * MIB },
    Accelerator { name: "A100-40", memory_bytes: 40_960 * MIB },
    Accelerator { name: "L40S", memory_bytes: 46_068 * MIB },
    Accelerator { name: "H100", memory_bytes: 81_559 * MIB },
    Accelerator { name: "A100-80", memory_bytes: 81_920 * MIB },
    Accelerator { name: "H200", memory_bytes: 143_771 * MIB },
    Accelerator { name: "B200", memory_bytes: 183_359 * MIB },
];

/// The GPU of a name, whatever its case.
pub fn accelerator(name: &str) -> Option<Accelerator> {
    ACCELERATORS.into_iter().find(|known| known.name.eq_ignore_ascii_case(name))
}

/// An instance's GPUs: their kind, and how many share a node's fast links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// The kind.
    pub accelerator: Accelerator,
    /// How many.
    pub num_accelerators: u32,
}

/// The GPUs of an EC2 instance type; `None` for one without, or one that is not known.
pub fn instance(name: &str) -> Option<Node> {
    let (family, size) = name.split_once('.')?;
    let (kind, num_accelerators) = match (family, size) {
        ("g5", _) => ("A10G", small(size)?),
        ("g6" | "gr6", _) => ("L4", small(size)?),
        ("g6e", _) => ("L40S", small(size)?),
        ("p4d", "24xlarge") => ("A100-40", 8),
        ("p4de", "24xlarge") => ("A100-80", 8),
        ("p5", "48xlarge") => ("H100", 8),
        ("p5", "4xlarge") => ("H100", 1),
        ("p5e" | "p5en", "48xlarge") => ("H200", 8),
        ("p6-b200", "48xlarge") => ("B200", 8),
        _ => return None,
    };
    Some(Node { accelerator: accelerator(kind)?, num_accelerators })
}

/// The GPUs of the sizes of g5, g6 and g6e.
fn small(size: &str) -> Option<u32> {
    match size {
        "xlarge" | "2xlarge" | "4xlarge" | "8xlarge" | "16xlarge" => Some(1),
        "12xlarge" | "24xlarge" => Some(4),
        "48xlarge" => Some(8),
        _ => None,
    }
}
