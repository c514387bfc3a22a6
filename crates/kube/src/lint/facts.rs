//! What is known of instances, versions and units.

/// The devices of Elastic Fabric Adapter that pods of an instance type can ask for: Karpenter's table of
/// instance types, July 2026. `None` for a type that is not listed.
pub(crate) fn efa_devices(instance: &str) -> Option<u64> {
    Some(match instance {
        "p5.48xlarge" | "p5e.48xlarge" => 32,
        "p5en.48xlarge" | "trn1n.32xlarge" | "trn2.48xlarge" => 16,
        "p6-b200.48xlarge" | "trn1.32xlarge" => 8,
        "p4d.24xlarge" | "p4de.24xlarge" | "g6e.48xlarge" => 4,
        "g5.48xlarge" | "g6.48xlarge" | "p5.4xlarge" => 1,
        "r5dn.16xlarge" => 0,
        _ => return None,
    })
}

/// The GPUs of an instance type.
pub(crate) fn gpus(instance: &str) -> Option<u64> {
    eagleray_plan::accelerator::instance(instance).map(|node| u64::from(node.num_accelerators))
}

/// What a head asks for that serves so many worker nodes: cores and GiB. Ray's floor for large clusters, and
/// what `SkyPilot` measured above 100 nodes (skypilot-org/skypilot#9192); between them a judgement.
pub(crate) fn head_size(nodes: i64) -> (f64, f64) {
    match nodes {
        ..=16 => (8.0, 32.0),
        17..=99 => (16.0, 64.0),
        100..=999 => (30.0, 64.0),
        _ => (60.0, 400.0),
    }
}

/// A quantity of Kubernetes, `500m`, `32Gi`, `8`, in its base unit.
pub fn quantity(text: &str) -> Option<f64> {
    const UNITS: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let text = text.trim();
    let (digits, factor) = UNITS
        .iter()
        .find_map(|(unit, factor)| text.strip_suffix(unit).map(|digits| (digits, *factor)))
        .unwrap_or((text, 1.0));
    digits.parse::<f64>().ok().map(|number| number * factor).filter(|number| number.is_finite())
}

/// A duration of Go, `10m`, `1h30m`, `720h`, in seconds; `None` for what is none, such as `Never`.
pub fn seconds(text: &str) -> Option<f64> {
    let mut rest = text.trim();
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let units = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, factor) = units.into_iter().find(|(unit, _)| rest.starts_with(unit))?;
        total += number * factor;
        rest = &rest[unit.len()..];
    }
    Some(total)
}

/// `2.60.0` as numbers; what follows the third is left out.
pub(crate) fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|part| {
        let digits = part.bytes().take_while(u8::is_ascii_digit).count();
        part[..digits].parse::<u32>().ok()
    });
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// The version of Ray that an image's tag names, where the image is one of Ray's own or its tag says `ray`.
pub(crate) fn image_ray_version(image: &str) -> Option<(u32, u32, u32)> {
    let image = image.split('@').next()?;
    let (repository, tag) = image.rsplit_once(':')?;
    let name = repository.rsplit('/').next()?;
    if matches!(name, "ray" | "ray-ml" | "ray-llm") {
        return version(tag);
    }
    let at = tag.find("ray")? + 3;
    version(tag[at..].trim_start_matches(['-', '_', 'v']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_and_durations_are_read_as_their_makers_read_them() {
        assert_eq!(quantity("500m"), Some(0.5));
        assert_eq!(quantity("2Gi"), Some(2_147_483_648.0));
        assert_eq!(quantity("8"), Some(8.0));
        assert_eq!(quantity("lots"), None);
        assert_eq!(seconds("1h30m"), Some(5400.0));
        assert_eq!(seconds("Never"), None);
        assert_eq!(seconds("100ms"), Some(0.1));
    }

    #[test]
    fn the_version_of_an_image_is_known_where_its_tag_says_so() {
        assert_eq!(image_ray_version("rayproject/ray:2.60.0-py312-gpu"), Some((2, 60, 0)));
        assert_eq!(image_ray_version("acme/train:v3-ray2.59.1"), Some((2, 59, 1)));
        assert_eq!(image_ray_version("acme/eagleray:0.1.2"), None);
        assert_eq!(image_ray_version("rayproject/ray:latest"), None);
        assert_eq!(image_ray_version("localhost:5000/ray"), None);
    }
}
