//! What an instance offers to pods.
//!
//! Allocatable CPU and memory, network cards and local disks of accelerated instances are those of
//! Karpenter's reference of instance types (release 1.14), their bandwidth that of its table of
//! bandwidths; the GPUs are those of the memory model.

use crate::accelerator::{self, Node};
use eagleray_base::{Error, Result};

/// The CPUs of a node that its pods leave to what else runs there.
const CPUS_LEFT: u32 = 2;

/// The share of a node's allocatable memory that a pod asks for, in percent: daemons take the rest.
const MEMORY_PERCENT: u32 = 90;

/// The share of a CPU instance's nominal memory that a pod asks for, in percent. What is allocatable lies
/// between 80 % (8 CPUs of 2 GiB each) and 93 %.
const NOMINAL_PERCENT: u32 = 75;

/// An instance type, as far as pods see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// What a pod that has the node to itself asks for.
    pub cpus: u32,
    /// The memory that it asks for.
    pub memory_mib: u32,
    /// Its accelerators.
    pub gpus: u32,
    /// Interfaces for EFA.
    pub efa: u32,
    /// Disks of its own, in GB.
    pub nvme_gb: u32,
    /// What all its network cards carry together, in Gbit/s; 0 where the table has none.
    pub network_gbps: u32,
}

/// One row of the table: name, allocatable milli-CPU and MiB, EFA interfaces, GB of local disks, Mbit/s.
type Row = (&'static str, u32, u32, u32, u32, u32);

const ACCELERATED: [Row; 33] = [
    ("g5.xlarge", 3_920, 14_162, 0, 250, 2_500),
    ("g5.2xlarge", 7_910, 29_317, 0, 450, 5_000),
    ("g5.4xlarge", 15_890, 57_691, 0, 600, 10_000),
    ("g5.8xlarge", 31_850, 118_312, 1, 900, 25_000),
    ("g5.12xlarge", 47_810, 173_400, 1, 3_800, 40_000),
    ("g5.16xlarge", 63_770, 239_554, 1, 1_900, 25_000),
    ("g5.24xlarge", 95_690, 355_262, 1, 3_800, 50_000),
    ("g5.48xlarge", 191_450, 723_299, 1, 7_600, 100_000),
    ("g6.xlarge", 3_920, 14_162, 0, 250, 2_500),
    ("g6.2xlarge", 7_910, 29_317, 0, 450, 5_000),
    ("g6.4xlarge", 15_890, 57_691, 0, 600, 10_000),
    ("g6.8xlarge", 31_850, 118_312, 1, 900, 25_000),
    ("g6.12xlarge", 47_810, 178_933, 1, 3_760, 40_000),
    ("g6.16xlarge", 63_770, 234_021, 1, 1_880, 25_000),
    ("g6.24xlarge", 95_690, 355_262, 1, 3_760, 50_000),
    ("g6.48xlarge", 191_450, 718_987, 1, 7_520, 100_000),
    ("gr6.4xlarge", 15_890, 118_312, 0, 600, 10_000),
    ("gr6.8xlarge", 31_850, 239_554, 1, 900, 25_000),
    ("g6e.xlarge", 3_920, 29_317, 0, 250, 2_500),
    ("g6e.2xlarge", 7_910, 59_627, 0, 450, 5_000),
    ("g6e.4xlarge", 15_890, 118_312, 0, 600, 20_000),
    ("g6e.8xlarge", 31_850, 239_554, 1, 900, 25_000),
    ("g6e.12xlarge", 47_810, 360_157, 1, 3_800, 100_000),
    ("g6e.16xlarge", 63_770, 476_504, 1, 1_900, 35_000),
    ("g6e.24xlarge", 95_690, 721_682, 2, 3_800, 200_000),
    ("g6e.48xlarge", 191_450, 1_449_132, 4, 7_600, 400_000),
    ("p4d.24xlarge", 95_690, 1_082_712, 4, 8_000, 400_000),
    ("p4de.24xlarge", 95_690, 1_082_712, 4, 8_000, 400_000),
    ("p5.4xlarge", 15_890, 240_830, 1, 3_800, 100_000),
    ("p5.48xlarge", 191_450, 1_938_410, 32, 30_400, 3_200_000),
    ("p5e.48xlarge", 191_450, 1_938_410, 32, 30_400, 3_200_000),
    ("p5en.48xlarge", 191_450, 1_937_332, 16, 30_400, 3_200_000),
    ("p6-b200.48xlarge", 191_450, 1_937_332, 8, 30_400, 3_200_000),
];

impl Instance {
    /// An instance to train on.
    ///
    /// # Errors
    /// `Invalid` where it is not known.
    pub fn accelerated(name: &str) -> Result<Self> {
        let known = accelerator::instance(name).zip(ACCELERATED.iter().find(|row| row.0 == name));
        let Some((Node { num_accelerators, .. }, &(_, millis, mib, efa, nvme_gb, mbps))) = known else {
            let names: Vec<String> = ACCELERATED.iter().map(|row| format!("`{}`", row.0)).collect();
            return Err(Error::invalid(format!(
                "`{name}` is not an instance to train on that this program knows"
            ))
            .with_hint(format!("known are {}", names.join(", "))));
        };
        Ok(Self {
            name: name.to_owned(),
            cpus: (millis / 1_000).saturating_sub(CPUS_LEFT).max(1),
            memory_mib: mib / 100 * MEMORY_PERCENT,
            gpus: num_accelerators,
            efa,
            nvme_gb,
            network_gbps: mbps / 1_000,
        })
    }

    /// An instance without accelerators: general (m), compute (c) or memory (r), by the rule of their names.
    ///
    /// # Errors
    /// `Invalid` where the name is not of these families, or too small.
    pub fn cpu(name: &str) -> Result<Self> {
        let parsed = name.split_once('.').and_then(|(family, size)| {
            let gib_per_cpu = match family.as_bytes() {
                [b'c', b'5'..=b'8', ..] => 2,
                [b'm', b'5'..=b'8', ..] => 4,
                [b'r', b'5'..=b'8', ..] => 8,
                _ => return None,
            };
            let times: u32 = size.strip_suffix("xlarge")?.parse().ok()?;
            ((2..=96).contains(&times)).then_some((times * 4, gib_per_cpu))
        });
        let Some((vcpus, gib_per_cpu)) = parsed else {
            return Err(Error::invalid(format!(
                "`{name}` is not an instance to build on that this program knows"
            ))
            .with_hint("take one of the families m5 to m8, c5 to c8 or r5 to r8, of 2xlarge or more"));
        };
        Ok(Self {
            name: name.to_owned(),
            cpus: vcpus - CPUS_LEFT,
            memory_mib: vcpus * gib_per_cpu * 1_024 / 100 * NOMINAL_PERCENT,
            gpus: 0,
            efa: 0,
            nvme_gb: 0,
            network_gbps: 0,
        })
    }

    /// What reaches a store, in Gbit/s: the first card alone carries IP, all others EFA.
    pub fn store_gbps(&self) -> f64 {
        f64::from(self.network_gbps) / f64::from(self.efa.max(1))
    }

    /// The name as part of an object's name.
    pub fn slug(&self) -> String {
        self.name.replace('.', "-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instance_of_the_table_has_its_accelerators() {
        for row in ACCELERATED {
            let instance = Instance::accelerated(row.0).unwrap();
            assert!(
                instance.gpus > 0 && instance.cpus * 1_000 < row.1 && instance.memory_mib < row.2,
                "{}",
                row.0
            );
        }
    }

    #[test]
    fn a_cpu_instance_asks_for_less_than_is_allocatable() {
        // Allocatable MiB after Karpenter's reference, the least of each shape.
        for (name, cpus, allocatable) in
            [("c7i.2xlarge", 6, 13_062), ("m7i.8xlarge", 30, 115_474), ("r6in.16xlarge", 62, 473_501)]
        {
            let instance = Instance::cpu(name).unwrap();
            assert_eq!(instance.cpus, cpus);
            assert!(instance.memory_mib < allocatable && instance.memory_mib > allocatable * 3 / 4, "{name}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for name in ["p5.24xlarge", "p3.16xlarge", "m7i.8xlarge", "p5"] {
            assert!(Instance::accelerated(name).is_err(), "{name}");
        }
        for name in ["m7i.metal", "m7i.large", "t3.2xlarge", "p5.48xlarge", "m7i"] {
            assert!(Instance::cpu(name).is_err(), "{name}");
        }
    }
}
