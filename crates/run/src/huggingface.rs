//! A Hugging Face folder: what its `config.json` says of the model, as far as training must know it.

use eagleray_base::{Error, Result};
use eagleray_plan::{Part, huggingface};
use eagleray_store::Store;
use serde::Serialize;
use serde_json::Value;

/// Probabilities of dropout by any of their names: where one is above zero, losses would depend on the world.
const DROPOUTS: [&str; 5] =
    ["attention_dropout", "hidden_dropout", "attn_pdrop", "embd_pdrop", "resid_pdrop"];

/// A model of a Hugging Face folder.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HuggingfaceModel {
    /// Its `model_type`, one of [`huggingface::FAMILIES`].
    pub family: String,
    /// `config.json`, as it is.
    pub config: Value,
    /// Rows of its embedding.
    pub vocab_size: u64,
    /// The longest sample it has positions for.
    pub max_positions: Option<u64>,
    /// Weights that each token is multiplied by: matrices of layers and output, not look-ups, norms and biases.
    pub weights: u64,
    /// Layers × heads × width of a head: what attention costs a token for each token it sees.
    pub attention: u64,
    /// Files with weights, relative to the folder; none where the model starts from scratch.
    pub files: Vec<String>,
}

/// Reads the folder at a path or URL.
///
/// # Errors
/// `NotFound` without a `config.json`; `Invalid` for a family that is not proved, a config that lacks what it
/// must say, dropout, and weights in a form other than safetensors.
pub fn read(location: &str) -> Result<HuggingfaceModel> {
    let store = Store::open(location)?;
    let place = format!("`{}/config.json`", store.url());
    if store.head("config.json")?.is_none() {
        return Err(Error::not_found(format!("{place} is not there"))
            .with_hint("`model.huggingface` names a folder with `config.json`, and weights as safetensors"));
    }
    let config: Value = serde_json::from_slice(&store.get("config.json")?)
        .map_err(|error| Error::invalid(format!("{place} is not JSON: {error}")))?;
    let mut model = described(config).map_err(|error| error.at(place))?;
    model.files = files(&store)?;
    Ok(model)
}

/// What a config says.
fn described(config: Value) -> Result<HuggingfaceModel> {
    let family = config["model_type"].as_str().unwrap_or_default().to_owned();
    huggingface::shape(&config)?;
    for name in DROPOUTS {
        if config[name].as_f64().is_some_and(|share| share > 0.0) {
            return Err(Error::invalid(format!(
                "`{name}` is {}: dropout is not available in this build",
                config[name]
            ))
            .with_hint(format!("set `{name}` to 0.0 in the folder's config.json")));
        }
    }
    if family == "gpt2" {
        // Absent is not off: the defaults of GPT-2 are 0.1.
        for name in ["attn_pdrop", "embd_pdrop", "resid_pdrop"] {
            if config[name].is_null() {
                return Err(Error::invalid(format!(
                    "`{name}` is missing, and its default is 0.1: dropout is not available in this build"
                ))
                .with_hint(format!("set `{name}` to 0.0 in the folder's config.json")));
            }
        }
    }
    let shape = huggingface::shape(&config)?;
    let whole = Part::whole(&shape);
    let positions = if family == "gpt2" { "n_positions" } else { "max_position_embeddings" };
    Ok(HuggingfaceModel {
        vocab_size: shape.vocab_size,
        max_positions: config[positions].as_u64(),
        weights: u64::try_from(shape.multiplied(&whole))
            .map_err(|_| Error::invalid("its sizes are beyond reason"))?,
        attention: shape.num_layers.saturating_mul(shape.query_size()),
        files: Vec::new(),
        family,
        config,
    })
}

/// The files with weights: one, or those that the index names.
fn files(store: &Store) -> Result<Vec<String>> {
    if store.head("model.safetensors.index.json")?.is_some() {
        let place = format!("`{}/model.safetensors.index.json`", store.url());
        let index: Value = serde_json::from_slice(&store.get("model.safetensors.index.json")?)
            .map_err(|error| Error::invalid(format!("{place} is not JSON: {error}")))?;
        let named = index["weight_map"].as_object().into_iter().flat_map(|map| map.values());
        let mut files: Vec<String> = named.filter_map(Value::as_str).map(str::to_owned).collect();
        files.sort();
        files.dedup();
        return if files.is_empty() {
            Err(Error::invalid(format!("{place} names no file")))
        } else {
            Ok(files)
        };
    }
    if store.head("model.safetensors")?.is_some() {
        return Ok(vec!["model.safetensors".into()]);
    }
    for old in ["pytorch_model.bin", "pytorch_model.bin.index.json"] {
        if store.head(old)?.is_some() {
            return Err(Error::invalid(format!(
                "`{}/{old}` holds weights as a pickle, which is not read",
                store.url()
            ))
            .with_hint(
                "`AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(DIR)` writes safetensors",
            ));
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn llama() -> Value {
        json!({
            "model_type": "llama", "vocab_size": 32_000, "hidden_size": 4096, "intermediate_size": 11_008,
            "num_hidden_layers": 32, "num_attention_heads": 32, "max_position_embeddings": 4096,
        })
    }

    #[test]
    fn the_weights_of_llama_2_7b_are_its_parameters_without_embedding_and_norms() {
        let model = described(llama()).unwrap();
        assert_eq!(model.weights, 6_738_415_616 - 32_000 * 4096 - 65 * 4096);
        assert_eq!((model.attention, model.max_positions), (32 * 4096, Some(4096)));
    }

    #[test]
    fn gpt2_has_two_matrices_where_others_have_three_and_dropout_unless_it_says_otherwise() {
        let mut config = json!({
            "model_type": "gpt2", "vocab_size": 50_257, "n_embd": 768, "n_layer": 12, "n_head": 12,
            "n_positions": 1024, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
        });
        assert_eq!(described(config.clone()).unwrap().weights, 12 * 12 * 768 * 768 + 50_257 * 768);
        config["resid_pdrop"] = json!(0.1);
        assert!(
            described(config.clone()).unwrap_err().message().starts_with("`resid_pdrop` is 0.1: dropout")
        );
        config.as_object_mut().unwrap().remove("resid_pdrop");
        assert!(described(config).unwrap_err().message().starts_with("`resid_pdrop` is missing"));
    }

    #[test]
    fn what_is_not_proved_or_not_said_is_refused_with_its_name() {
        let refused = |key: &str, value: Value| {
            let mut config = llama();
            config[key] = value;
            described(config).unwrap_err().message().to_owned()
        };
        assert!(
            refused("model_type", json!("mixtral")).contains("models of type `mixtral` are not available")
        );
        assert!(refused("attention_dropout", json!(0.1)).contains("`attention_dropout` is 0.1"));
        assert_eq!(refused("hidden_size", json!(null)), "expected a size in `hidden_size`, found null");
        assert_eq!(
            refused("num_attention_heads", json!(0)),
            "expected a size in `num_attention_heads`, found 0"
        );
    }

    #[test]
    fn weights_are_those_of_the_index_and_never_a_pickle() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        let location = folder.path().to_str().unwrap();
        assert!(read(location).unwrap_err().message().ends_with("config.json` is not there"));
        write("config.json", &llama().to_string());
        assert!(read(location).unwrap().files.is_empty());
        write("pytorch_model.bin", "");
        assert!(read(location).unwrap_err().message().contains("as a pickle"));
        write(
            "model.safetensors.index.json",
            r#"{"weight_map": {"a": "2.safetensors", "b": "1.safetensors", "c": "1.safetensors"}}"#,
        );
        assert_eq!(read(location).unwrap().files, ["1.safetensors", "2.safetensors"]);
    }
}
