//! Credentials of the machine: asked for briefly where none may be, patiently once there were some.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, AwsCredential, AwsCredentialProvider};
use object_store::{BackoffConfig, ClientOptions, CredentialProvider, RetryConfig};

/// What an error says where the machine gave no credentials.
pub(crate) const REFUSED: &str = "the machine gave no credentials";

/// For one request to the metadata service, which answers in milliseconds where there is one.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);
/// For all tries of one request.
const TRIES_TIMEOUT: Duration = Duration::from_secs(2);
const RETRIES_MAX: usize = 3;
/// For the first credentials: with all requests that are needed, and behind others that wait.
const FIRST_TIMEOUT: Duration = Duration::from_secs(5);
/// Between tries for credentials that are to follow others.
const PAUSE: Duration = Duration::from_millis(500);

/// The metadata service of an instance, which is asked where the environment names nothing else.
#[derive(Debug)]
struct Instance {
    /// `None` where the environment forbids to ask it.
    service: Option<AwsCredentialProvider>,
    /// How long to wait for credentials that are to follow others.
    patience: Duration,
    given: AtomicBool,
}

/// Makes the builder ask the metadata service our way, where it would ask it at all.
pub(crate) fn settle(
    builder: AmazonS3Builder,
    options: ClientOptions,
    patience: Duration,
    allowed: bool,
) -> object_store::Result<AmazonS3Builder> {
    if is_given(&builder) {
        return Ok(builder);
    }
    let service = if allowed {
        let retry = RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: RETRIES_MAX,
            retry_timeout: TRIES_TIMEOUT,
        };
        let asked =
            builder.clone().with_client_options(options.with_timeout(REQUEST_TIMEOUT)).with_retry(retry);
        Some(Arc::clone(asked.build()?.credentials()))
    } else {
        None
    };
    Ok(builder.with_credentials(Arc::new(Instance { service, patience, given: AtomicBool::new(false) })))
}

/// Whether the settings name credentials: keys, a web identity (IRSA), a container's address (Pod Identity),
/// or that requests are not signed.
fn is_given(builder: &AmazonS3Builder) -> bool {
    use AmazonS3ConfigKey as Key;
    let set = |key: Key| builder.get_config_value(&key).is_some_and(|value| !value.is_empty());
    let container = set(Key::ContainerCredentialsFullUri) && set(Key::ContainerAuthorizationTokenFile);
    set(Key::AccessKeyId)
        || set(Key::SecretAccessKey)
        || (set(Key::WebIdentityTokenFile) && set(Key::RoleArn))
        || set(Key::ContainerCredentialsRelativeUri)
        || container
        || builder.get_config_value(&Key::SkipSignature).is_some_and(|value| value == "true")
}

impl Instance {
    async fn ask(&self) -> object_store::Result<Arc<AwsCredential>> {
        let Some(service) = &self.service else {
            return Err(refused("`AWS_EC2_METADATA_DISABLED` is set"));
        };
        let given = self.given.load(Ordering::Relaxed);
        let answer = async {
            loop {
                match service.get_credential().await {
                    Err(_) if given => tokio::time::sleep(PAUSE).await,
                    answer => return answer,
                }
            }
        };
        let limit = if given { self.patience } else { FIRST_TIMEOUT };
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(credential)) => {
                self.given.store(true, Ordering::Relaxed);
                Ok(credential)
            }
            Ok(Err(error)) => Err(refused(error)),
            Err(elapsed) => Err(refused(elapsed)),
        }
    }
}

impl CredentialProvider for Instance {
    type Credential = AwsCredential;

    fn get_credential<'a, 'b>(
        &'a self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.ask())
    }
}

/// The error's own text carries the sign, since `object_store` wraps what it passes on.
fn refused(cause: impl std::fmt::Display) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: format!("{REFUSED}: {cause}").into() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Instant;

    use super::*;

    /// A service that answers as the script says, and from its end on with credentials.
    #[derive(Debug)]
    struct Scripted {
        answers: Vec<bool>,
        asked: AtomicUsize,
    }

    impl CredentialProvider for Scripted {
        type Credential = AwsCredential;

        fn get_credential<'a, 'b>(
            &'a self,
        ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'b>>
        where
            'a: 'b,
            Self: 'b,
        {
            let number = self.asked.fetch_add(1, Ordering::Relaxed);
            let answers = self.answers.get(number).copied().unwrap_or(true);
            let credential = AwsCredential { key_id: "k".into(), secret_key: "s".into(), token: None };
            let answer = if answers { Ok(Arc::new(credential)) } else { Err(refused("scripted")) };
            Box::pin(std::future::ready(answer))
        }
    }

    fn instance(answers: &[bool], patience: Duration) -> Instance {
        let service = Scripted { answers: answers.to_vec(), asked: AtomicUsize::new(0) };
        Instance { service: Some(Arc::new(service)), patience, given: AtomicBool::new(false) }
    }

    #[test]
    fn a_machine_that_never_gave_credentials_is_asked_once_and_one_that_did_again() {
        let runtime = crate::runtime();
        let none = instance(&[false], Duration::from_mins(1));
        assert!(runtime.block_on(none.ask()).is_err());
        let hiccup = instance(&[true, false, false, true], Duration::from_mins(1));
        assert!(runtime.block_on(hiccup.ask()).is_ok());
        assert!(runtime.block_on(hiccup.ask()).is_ok());
        let gone = instance(&[vec![true], vec![false; 99]].concat(), Duration::from_millis(1));
        assert!(runtime.block_on(gone.ask()).is_ok());
        assert!(runtime.block_on(gone.ask()).unwrap_err().to_string().contains(REFUSED));
    }

    #[test]
    fn what_the_environment_names_is_taken_and_the_machine_asked_only_otherwise() {
        use AmazonS3ConfigKey as Key;
        let given = |keys: &[Key]| {
            let builder = AmazonS3Builder::new();
            is_given(&keys.iter().fold(builder, |builder, key| builder.with_config(*key, "true")))
        };
        assert!(given(&[Key::AccessKeyId, Key::SecretAccessKey]));
        assert!(given(&[Key::WebIdentityTokenFile, Key::RoleArn]));
        assert!(given(&[Key::ContainerCredentialsFullUri, Key::ContainerAuthorizationTokenFile]));
        assert!(given(&[Key::SkipSignature]));
        assert!(!given(&[]) && !given(&[Key::RoleArn]) && !given(&[Key::Region]));
    }

    #[test]
    fn a_metadata_service_that_is_silent_or_forbidden_is_given_up_in_seconds() {
        // Accepts connections, since its backlog does, and never answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", silent.local_addr().unwrap());
        for allowed in [true, false] {
            let builder =
                AmazonS3Builder::new().with_bucket_name("bucket").with_metadata_endpoint(endpoint.clone());
            let options = ClientOptions::new().with_allow_http(true);
            let settled = settle(builder, options, Duration::from_mins(1), allowed).unwrap();
            let store = settled.build().unwrap();
            let began = Instant::now();
            let error = crate::runtime().block_on(store.credentials().get_credential()).unwrap_err();
            assert!(error.to_string().contains(REFUSED), "{error}");
            assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        }
    }
}
