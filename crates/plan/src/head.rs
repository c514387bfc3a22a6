//! The size of the head: what holds the cluster together, and the driver.

/// The size of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// CPUs that it asks for.
    pub cpus: u32,
    /// Memory that it asks for.
    pub memory_gib: u32,
    /// The instances that hold it, the cheapest first.
    pub instances: &'static [&'static str],
    /// Up to how many Ray nodes it serves.
    pub nodes_max: u32,
}

/// Ray's floor for a head is 8 CPUs and 32 GiB; from 100 nodes on its documents want a large instance with
/// 75 Gb/s and more; at 2,000 nodes the control store alone takes about 10 CPUs. Between, judgement.
const SIZES: [Head; 5] = [
    Head { cpus: 8, memory_gib: 32, instances: &["m7i.4xlarge", "m6i.4xlarge"], nodes_max: 16 },
    Head { cpus: 16, memory_gib: 64, instances: &["m7i.8xlarge", "m6in.8xlarge"], nodes_max: 99 },
    Head {
        cpus: 32,
        memory_gib: 128,
        instances: &["m6in.16xlarge", "r5dn.16xlarge", "r6in.16xlarge"],
        nodes_max: 499,
    },
    Head {
        cpus: 56,
        memory_gib: 192,
        instances: &["m6in.16xlarge", "r5dn.16xlarge", "r6in.16xlarge"],
        nodes_max: 999,
    },
    Head { cpus: 60, memory_gib: 400, instances: &["r6in.16xlarge", "r6in.24xlarge"], nodes_max: u32::MAX },
];

impl Head {
    /// The head of a cluster with so many workers' nodes at most: nodes decide, not accelerators.
    pub fn of(nodes: u32) -> Self {
        SIZES.into_iter().find(|size| nodes <= size.nodes_max).unwrap_or(SIZES[SIZES.len() - 1])
    }

    /// The rule, told at the field.
    pub fn rule(self, nodes: u32) -> String {
        let Self { cpus, memory_gib, nodes_max, .. } = self;
        let bound = if nodes_max == u32::MAX {
            "from 1000 nodes on".into()
        } else {
            format!("up to {nodes_max} nodes")
        };
        format!(
            "{nodes} worker nodes at most; {bound} a head has {cpus} CPUs and {memory_gib} GiB (Ray's floor is 8 and 32)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_grows_with_nodes_and_never_lies_below_the_floor() {
        let sizes: Vec<(u32, u32)> = [0, 16, 17, 99, 100, 500, 1_000, 9_999]
            .map(Head::of)
            .map(|head| (head.cpus, head.memory_gib))
            .into();
        assert_eq!(sizes, [(8, 32), (8, 32), (16, 64), (16, 64), (32, 128), (56, 192), (60, 400), (60, 400)]);
    }
}
