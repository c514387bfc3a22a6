//! The shape that the `config.json` of a Hugging Face folder describes, and the meshes that it allows.
//!
//! What a config leaves out is what Transformers 5.23 takes for its family.

use eagleray_base::{Error, Result};
use eagleray_spec::types::Count;
use eagleray_spec::types::train::Mesh;
use serde_json::Value;

use crate::setting::WHOLE_ONLY;
use crate::shape::{Shape, Traits};

/// The families (`model_type`) that are proved; others are refused by name.
pub const FAMILIES: [&str; 5] = ["llama", "qwen3", "mistral", "gemma3_text", "gpt2"];

/// The shape of the model.
///
/// # Errors
/// `Invalid` for a family that is not proved, and for sizes that are missing or none.
pub fn shape(config: &Value) -> Result<Shape> {
    let family = config["model_type"].as_str().unwrap_or_default();
    let shape = match family {
        "gpt2" => gpt2(config)?,
        _ if FAMILIES.contains(&family) => llama_like(config, family)?,
        _ => {
            return Err(Error::invalid(format!(
                "models of type `{family}` are not available in this build; {} are",
                FAMILIES.join(", ")
            ))
            .with_hint("`train.function` and `train.script` train any model"));
        }
    };
    shape.check()?;
    Ok(shape)
}

fn llama_like(config: &Value, family: &str) -> Result<Shape> {
    let num_heads = number(config, "num_attention_heads")?;
    let gemma = family == "gemma3_text";
    let (default_keys, default_width) = match family {
        "qwen3" => (Some(32), Some(128)),
        "gemma3_text" => (Some(4), Some(256)),
        "mistral" => (Some(8), None),
        _ => (None, None),
    };
    let mut shape = Shape {
        vocab_size: number(config, "vocab_size")?,
        hidden_size: number(config, "hidden_size")?,
        intermediate_size: number(config, "intermediate_size")?,
        num_layers: number(config, "num_hidden_layers")?,
        num_heads,
        num_kv_heads: optional(config, "num_key_value_heads", default_keys)?.unwrap_or(num_heads),
        tie_embeddings: config["tie_word_embeddings"].as_bool().unwrap_or(gemma),
        traits: Traits {
            transformers: true,
            head_dim: optional(config, "head_dim", default_width)?,
            query_norms: matches!(family, "qwen3" | "gemma3_text"),
            more_norms: if gemma { 2 } else { 0 },
            ..Traits::default()
        },
    };
    let (hidden, inner) = (shape.hidden_size, shape.intermediate_size);
    if family != "mistral" && config["attention_bias"] == true {
        shape.traits.layer_biases += shape.query_size() + 2 * shape.kv_size() + hidden;
    }
    if family == "llama" && config["mlp_bias"] == true {
        shape.traits.layer_biases += 2 * inner + hidden;
    }
    Ok(shape)
}

fn gpt2(config: &Value) -> Result<Shape> {
    let (hidden, num_heads) = (number(config, "n_embd")?, number(config, "n_head")?);
    let inner = optional(config, "n_inner", None)?.unwrap_or(4 * hidden);
    Ok(Shape {
        vocab_size: number(config, "vocab_size")?,
        hidden_size: hidden,
        intermediate_size: inner,
        num_layers: number(config, "n_layer")?,
        num_heads,
        num_kv_heads: num_heads,
        tie_embeddings: config["tie_word_embeddings"].as_bool().unwrap_or(true),
        traits: Traits {
            transformers: true,
            ungated: true,
            norm_biases: true,
            // Of queries, keys and values, what attention gives, and both feed-forward matrices.
            layer_biases: 5 * hidden + inner,
            positions: number(config, "n_positions")?,
            ..Traits::default()
        },
    })
}

/// A size that must be there.
fn number(config: &Value, key: &str) -> Result<u64> {
    optional(config, key, None)?
        .ok_or_else(|| Error::invalid(format!("expected a size in `{key}`, found {}", config[key])))
}

/// A size; `default` where the key is absent, none where it is null.
fn optional(config: &Value, key: &str, default: Option<u64>) -> Result<Option<u64>> {
    match config.get(key) {
        None => Ok(default),
        Some(Value::Null) => Ok(None),
        // Above any model, and far enough below the largest integer for a few products.
        Some(found) => match found.as_u64().filter(|number| (1..=1 << 28).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(Error::invalid(format!("expected a size in `{key}`, found {found}"))),
        },
    }
}

/// Refuses a mesh whose tensor parts or stages the model does not allow.
///
/// # Errors
/// `Invalid`, with the nearest that it allows.
pub fn require_split(config: &Value, mesh: &Mesh) -> Result<()> {
    let Some((axis, _)) =
        [("tp", mesh.tp), ("cp", mesh.cp), ("pp", mesh.pp)].into_iter().find(|(_, size)| *size > 1)
    else {
        return Ok(());
    };
    if config["model_type"] == "gpt2" {
        return Err(Error::invalid(format!(
            "`train.strategy` with `{axis}` and a model of type `gpt2`: Transformers has no plan of its parts, whose \
             queries, keys and values are one matrix"
        ))
        .with_hint(WHOLE_ONLY));
    }
    if config["use_bidirectional_attention"] == true {
        return Err(Error::invalid(format!(
            "`train.strategy` with `{axis}` and `use_bidirectional_attention` in the model's config.json"
        ))
        .with_hint(WHOLE_ONLY));
    }
    let shape = shape(config)?;
    if mesh.pp > 1 && shape.tie_embeddings {
        return Err(Error::invalid(format!(
            "`train.strategy` with `pp: {}` and a model whose head is its embedding (`tie_word_embeddings`): the \
             first stage and the last would share weights",
            mesh.pp
        ))
        .with_hint("there are `ddp`, `fsdp2`, `zero3`, and meshes of `dp_replicate`, `dp_shard`, `cp` and `tp`"));
    }
    let workers = Count::exactly(u32::try_from(mesh.size()).unwrap_or(u32::MAX));
    match eagleray_spec::mesh::faults(mesh, workers, None, Some(&shape.config())).into_iter().next() {
        None => Ok(()),
        Some(fault) => {
            Err(Error::invalid(format!("`train.strategy`: {}", fault.message)).with_hint(fault.hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn published_totals_are_met() {
        // The totals on the pages of the models; of GPT-2 the 124 million of its smallest.
        let qwen3 = json!({
            "model_type": "qwen3", "vocab_size": 151_936, "hidden_size": 1024, "intermediate_size": 3072,
            "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128,
            "tie_word_embeddings": true,
        });
        let gemma = json!({
            "model_type": "gemma3_text", "vocab_size": 262_144, "hidden_size": 1152, "intermediate_size": 6912,
            "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        });
        let mistral = json!({
            "model_type": "mistral", "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 14_336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        });
        let gpt2 = json!({
            "model_type": "gpt2", "vocab_size": 50_257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024,
        });
        let published =
            [(qwen3, 596_049_920), (gemma, 999_885_952), (mistral, 7_241_732_096), (gpt2, 124_439_808)];
        for (config, parameters) in published {
            assert_eq!(shape(&config).unwrap().parameters(), parameters, "{}", config["model_type"]);
        }
    }

    #[test]
    fn parts_that_a_model_does_not_allow_are_refused_with_those_that_it_does() {
        let llama = json!({
            "model_type": "llama", "vocab_size": 320, "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        });
        let refused = |changes: &[(&str, Value)], mesh: Mesh| {
            let mut config = llama.clone();
            for (key, value) in changes {
                config[*key] = value.clone();
            }
            require_split(&config, &mesh).unwrap_err().message().to_owned()
        };
        let (tp, pp) = (Mesh { tp: 4, ..Mesh::default() }, Mesh { pp: 2, ..Mesh::default() });
        assert_eq!(refused(&[], tp), "`train.strategy`: `tp` 4 does not divide the model's 2 key heads");
        assert!(refused(&[("vocab_size", json!(321))], Mesh { tp: 2, ..tp }).contains("vocabulary of 321"));
        assert!(
            refused(&[("num_hidden_layers", json!(1))], pp).contains("`pp` 2 is above the model's 1 layers")
        );
        assert!(refused(&[("tie_word_embeddings", json!(true))], pp).contains("whose head is its embedding"));
        assert!(refused(&[("model_type", json!("gpt2"))], tp).contains("`tp` and a model of type `gpt2`"));
        let cp = Mesh { cp: 2, ..Mesh::default() };
        assert!(refused(&[("model_type", json!("gpt2"))], cp).contains("`cp` and a model of type `gpt2`"));
        assert!(refused(&[("use_bidirectional_attention", json!(true))], cp).contains("`cp` and `use_bid"));
        require_split(&llama, &cp).unwrap();
        require_split(&llama, &pp).unwrap();
        require_split(&llama, &Mesh { tp: 2, ..Mesh::default() }).unwrap();
    }
}
