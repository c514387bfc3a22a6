//! Which names say that their value is a secret.
//!
//! There is one answer for all who ask: the spec, which holds no secret, the lints, and `eagleray migrate`, which
//! carries none along. A name that is missed puts a secret into a manifest; an ordinary one that is taken for a
//! secret stops a run that is right. So a word for a secret anywhere in the name counts, unless another word says
//! that the value is something else: where the secret lies, how long it lives, how many tokens a text has.

/// Words that stand for a secret by themselves.
const SECRETS: [&str; 10] = [
    "SECRET",
    "SECRETS",
    "PASSWORD",
    "PASSWORDS",
    "PASSWD",
    "PASSPHRASE",
    "TOKEN",
    "APIKEY",
    "CREDENTIAL",
    "CREDENTIALS",
];

/// What a `KEY` must be of: `PARTITION_KEY`, `PUBLIC_KEY` and `KEY` alone are none.
const KEYS: [&str; 9] =
    ["API", "ACCESS", "ACCOUNT", "ENCRYPTION", "LICENSE", "PRIVATE", "SECRET", "SIGNING", "STORAGE"];

/// Too short to say it alone (`PWD` is a folder), and secrets behind another word: `MYSQL_PWD`, `GITHUB_PAT`, `DB_PASS`.
const SECRETS_BEHIND: [&str; 3] = ["PWD", "PAT", "PASS"];

/// As the last word: something about a secret, or the place of one.
const ABOUT: [&str; 33] = [
    "ARN",
    "BYTES",
    "COUNT",
    "DIR",
    "DTYPE",
    "ENABLED",
    "ENDPOINT",
    "EXPIRATION",
    "EXPIRY",
    "FILE",
    "FORMAT",
    "HEADER",
    "ID",
    "IDS",
    "INDEX",
    "ISSUER",
    "LEN",
    "LENGTH",
    "LIMIT",
    "MODE",
    "NAME",
    "PATH",
    "POLICY",
    "PREFIX",
    "PROVIDER",
    "RATE",
    "SECONDS",
    "SIZE",
    "TTL",
    "TYPE",
    "URI",
    "URL",
    "VERSION",
];

/// Anywhere: a switch. `HF_HUB_DISABLE_IMPLICIT_TOKEN` is `1`.
const SWITCHES: [&str; 6] = ["ALLOW", "DISABLE", "ENABLE", "REQUIRE", "SKIP", "USE"];

/// In front of `TOKEN`: one of a text.
const OF_TEXT: [&str; 15] = [
    "BOS", "CLS", "END", "EOS", "EOT", "IMAGE", "MASK", "MAX", "MIN", "NUM", "PAD", "PER", "SEP", "STOP",
    "UNK",
];

/// Whether a variable, an argument or a key of this name holds a secret.
///
/// ```
/// use eagleray_spec::is_secret_name;
///
/// assert!(is_secret_name("HF_TOKEN") && is_secret_name("wandb-api-key"));
/// assert!(!is_secret_name("MAX_TOKENS") && !is_secret_name("AWS_WEB_IDENTITY_TOKEN_FILE"));
/// ```
pub fn is_secret_name(name: &str) -> bool {
    let words = words(name);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // Ids that are half of what opens an account: AWS's, and Vault's.
    if words.ends_with(&["ACCESS", "KEY", "ID"]) || words.ends_with(&["SECRET", "ID"]) {
        return true;
    }
    // Google's is a path.
    if words.ends_with(&["APPLICATION", "CREDENTIALS"])
        || words.last().is_some_and(|last| ABOUT.contains(last))
        || words.iter().any(|word| SWITCHES.contains(word))
    {
        return false;
    }
    (0..words.len()).any(|at| {
        let before = at.checked_sub(1).map(|before| words[before]);
        match words[at] {
            "TOKEN" => before.is_none_or(|before| !OF_TEXT.contains(&before)),
            "KEY" | "KEYS" => before.is_some_and(|before| KEYS.contains(&before)),
            "STRING" => before == Some("CONNECTION"),
            word if SECRETS_BEHIND.contains(&word) => before.is_some() && at + 1 == words.len(),
            // `PGPASSWORD`
            word => SECRETS.contains(&word) || word.ends_with("PASSWORD"),
        }
    })
}

/// `hfToken`, `hf-token` and `HF_TOKEN` are two words each, `HF_TOKEN2` as well.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut small = false;
    for letter in name.chars() {
        let starts = !letter.is_alphanumeric() || (small && letter.is_uppercase());
        if starts {
            words.push(String::new());
        }
        // A number tells two of a kind apart, and is no word.
        if letter.is_alphabetic()
            && let Some(last) = words.last_mut()
        {
            last.extend(letter.to_uppercase());
        }
        small = letter.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_its_name() {
        for name in [
            "TOKEN",
            "HF_TOKEN",
            "hf_token",
            "hfToken",
            "HF_TOKEN_2",
            "HF_TOKEN_READ",
            "HUGGING_FACE_HUB_TOKEN",
            "AWS_SESSION_TOKEN",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "VAULT_SECRET_ID",
            "WANDB_API_KEY",
            "WANDB-API-KEY",
            "WANDB_APIKEY",
            "OPENAI_API_KEYS",
            "API_KEY_STAGING",
            "AZURE_CLIENT_SECRET",
            "AZURE_STORAGE_KEY",
            "AZURE_STORAGE_CONNECTION_STRING",
            "MLFLOW_TRACKING_PASSWORD",
            "DB_PASSWORD",
            "PASSWORD_OF_DB",
            "PGPASSWORD",
            "MYSQL_PWD",
            "SMTP_PASSWD",
            "KEY_PASSPHRASE",
            "redis-password",
            "SSH_PRIVATE_KEY",
            "ENCRYPTION_KEY",
            "GITHUB_PAT",
            "DB_PASS",
            "GIT_CREDENTIALS",
            "SECRET",
            "JWT_SECRET",
            "SECRET_KEY",
            "DJANGO_SECRET_KEY",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn an_ordinary_name_is_none() {
        for name in [
            "",
            "_",
            "KEY",
            "PATH",
            "PWD",
            "OLDPWD",
            "HOME",
            "TOKENIZERS_PARALLELISM",
            "TOKENIZER",
            "MAX_TOKENS",
            "MAX_TOKEN",
            "NUM_TOKENS_PER_STEP",
            "TOKENS_PER_SECOND",
            "TOKEN_COUNT",
            "token_type_ids",
            "EOS_TOKEN",
            "PAD_TOKEN_ID",
            "BOS_TOKEN_ID",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN",
            "HF_TOKEN_PATH",
            "RAY_AUTH_TOKEN_PATH",
            "RAY_AUTH_MODE",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
            "AWS_SHARED_CREDENTIALS_FILE",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "DB_PASSWORD_FILE",
            "SECRET_NAME",
            "SECRET_ARN",
            "PARTITION_KEY",
            "SSH_PUBLIC_KEY",
            "KEYBOARD",
            "SECRETARY",
            "COMPATIBLE",
            "PASS",
            "NO_PROXY_BYPASS",
            "NCCL_DEBUG",
        ] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
