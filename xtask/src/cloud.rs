//! The cloud that an environment lives in: the AWS SDKs, told which endpoint to speak to.
//!
//! There is one code path. In the `local` environment the endpoint is the embedded cloud, started in this process when
//! no `cargo xtask local` serves it already. The other environments use the ordinary credentials and settings of the AWS tools,
//! `AWS_ENDPOINT_URL` included, and refuse an account that is not theirs.

use std::path::Path;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_s3::config::{Credentials, SharedHttpClient};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use local_aws::{LocalCloud, Options, StartError};

use crate::config::{CloudKind, Environment};
use crate::{http, paths, patience, terminal};

/// Clients of the services, and the embedded cloud if this process runs it.
pub struct Cloud {
    pub ecr: aws_sdk_ecr::Client,
    pub s3: aws_sdk_s3::Client,
    pub lambda: aws_sdk_lambda::Client,
    /// What the clients are made from, for services that are called without an SDK of their own.
    pub settings: SdkConfig,
    /// Where all services answer, if that is not AWS itself.
    pub endpoint_url: Option<String>,
    region: String,
    /// Set when this process serves it.
    pub embedded: Option<LocalCloud>,
}

/// The port that the environment asks for; `LOCAL_AWS_PORT` overrides it.
pub fn port(environment: &Environment) -> Result<u16> {
    match std::env::var("LOCAL_AWS_PORT") {
        Ok(port) => port.parse().with_context(|| format!("LOCAL_AWS_PORT is `{port}`, not a port")),
        Err(_) => Ok(environment.port),
    }
}

impl Cloud {
    /// Connects to the environment's cloud.
    pub async fn connect(root: &Path, environment: &Environment) -> Result<Cloud> {
        patience::check()?;
        match environment.cloud {
            CloudKind::Embedded => Cloud::connect_embedded(root, environment).await,
            CloudKind::Aws => Cloud::connect_aws(environment).await,
        }
    }

    async fn connect_embedded(root: &Path, environment: &Environment) -> Result<Cloud> {
        let state = paths::local_state(root);
        if let Some(running) = local_aws::running(&state).await {
            return Ok(Cloud::at(running.endpoint_url, environment, None).await);
        }
        let options = |port| Options { root: state.clone(), port, region: environment.region.clone() };
        let embedded = match LocalCloud::start(options(port(environment)?)).await {
            Err(StartError::PortTaken { port }) => {
                // For the length of one command any port serves; addresses are made from the current one.
                terminal::note(&format!("port {port} is taken by another program, using a free one"));
                LocalCloud::start(options(0)).await
            }
            result => result,
        }
        .context("start the embedded cloud")?;
        Ok(Cloud::at(embedded.endpoint_url().to_string(), environment, Some(embedded)).await)
    }

    /// Connects to AWS, once it is certain that the credentials are of the environment's account.
    async fn connect_aws(environment: &Environment) -> Result<Cloud> {
        let settings = loader(environment).load().await;
        let identity = aws_sdk_sts::Client::new(&settings)
            .get_caller_identity()
            .send()
            .await
            .map_err(service_error)
            .context("ask AWS whose credentials these are: sign in first (`aws sso login`, or set AWS_PROFILE)")?;
        let account = identity.account().unwrap_or_default();
        if account != environment.account {
            bail!(
                "the credentials are of account {account}, pipeline.toml says {}: sign in to that one, or write {account} there",
                environment.account
            );
        }
        Ok(Cloud::with(settings, environment, None))
    }

    /// Clients for the embedded cloud at an address.
    pub async fn at(endpoint_url: String, environment: &Environment, embedded: Option<LocalCloud>) -> Cloud {
        let credentials =
            Credentials::new(local_aws::ACCESS_KEY_ID, local_aws::SECRET_ACCESS_KEY, None, None, "embedded cloud");
        let settings = loader(environment).endpoint_url(&endpoint_url).credentials_provider(credentials).load().await;
        Cloud::with(settings, environment, embedded)
    }

    fn with(settings: SdkConfig, environment: &Environment, embedded: Option<LocalCloud>) -> Cloud {
        let endpoint_url = settings.endpoint_url().map(|url| url.trim_end_matches('/').to_string());
        // Names of buckets before the host's name need a name server that knows them; only AWS has one.
        // Once a process; whoever was first chose the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let s3 = aws_sdk_s3::config::Builder::from(&settings).force_path_style(endpoint_url.is_some()).build();
        Cloud {
            ecr: aws_sdk_ecr::Client::new(&settings),
            s3: aws_sdk_s3::Client::from_conf(s3),
            lambda: aws_sdk_lambda::Client::new(&settings),
            region: environment.region.clone(),
            endpoint_url,
            settings,
            embedded,
        }
    }

    /// The environment's region.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// A client for calls that no SDK makes.
    pub fn http(&self) -> Result<reqwest::Client> {
        http::client()
    }

    /// Makes the image repository if it does not exist.
    pub async fn ensure_repository(&self, name: &str) -> Result<String> {
        use aws_sdk_ecr::types::{ImageScanningConfiguration, ImageTagMutability};
        let described = self.ecr.describe_repositories().repository_names(name).send().await;
        let uri = match described {
            Ok(answer) => answer.repositories().first().and_then(|found| found.repository_uri()).map(String::from),
            Err(error) if error.as_service_error().is_some_and(|e| e.is_repository_not_found_exception()) => {
                let made = self
                    .ecr
                    .create_repository()
                    .repository_name(name)
                    .image_tag_mutability(ImageTagMutability::Immutable)
                    .image_scanning_configuration(ImageScanningConfiguration::builder().scan_on_push(true).build())
                    .send()
                    .await;
                match made {
                    Ok(made) => made.repository().and_then(|made| made.repository_uri()).map(String::from),
                    // Made by an attempt whose answer came too late, or by somebody else.
                    Err(error)
                        if error.as_service_error().is_some_and(|e| e.is_repository_already_exists_exception()) =>
                    {
                        let answer = self.ecr.describe_repositories().repository_names(name).send().await;
                        let answer = answer.map_err(service_error);
                        let answer = answer.with_context(|| format!("describe the image repository `{name}`"))?;
                        answer.repositories().first().and_then(|found| found.repository_uri()).map(String::from)
                    }
                    Err(error) => {
                        return Err(service_error(error))
                            .with_context(|| format!("create the image repository `{name}`"));
                    }
                }
            }
            Err(error) => {
                return Err(service_error(error)).with_context(|| format!("describe the image repository `{name}`"));
            }
        };
        uri.with_context(|| format!("the answer about repository `{name}` has no address"))
    }

    /// Stores an object.
    pub async fn upload(&self, bucket: &str, key: &str, content_type: &str, bytes: Vec<u8>) -> Result<()> {
        self.s3
            .put_object()
            .bucket(bucket)
            .key(key)
            .content_type(content_type)
            .body(bytes.into())
            .send()
            .await
            .map_err(service_error)
            .with_context(|| format!("upload s3://{bucket}/{key}"))?;
        Ok(())
    }

    /// Reads an object.
    pub async fn download(&self, bucket: &str, key: &str) -> Result<Vec<u8>> {
        let answer = self.s3.get_object().bucket(bucket).key(key).send().await.map_err(service_error);
        let stored = answer.with_context(|| format!("read s3://{bucket}/{key}"))?;
        let stored = stored.body.collect().await.with_context(|| format!("read s3://{bucket}/{key}"))?;
        Ok(stored.to_vec())
    }

    /// The address under which anybody may read an object of a public prefix.
    pub fn object_url(&self, bucket: &str, key: &str) -> String {
        match &self.endpoint_url {
            Some(endpoint_url) => format!("{endpoint_url}/{bucket}/{key}"),
            None => format!("https://{bucket}.s3.{}.amazonaws.com/{key}", self.region),
        }
    }
}

/// Settings that all clients share.
fn loader(environment: &Environment) -> ConfigLoader {
    // The SDK's default client brings a C library that takes as long to compile as the SDK itself. One serves the whole
    // process: making one reads all certificates of the system.
    static HTTPS: OnceLock<SharedHttpClient> = OnceLock::new();
    let https =
        HTTPS.get_or_init(|| Builder::new().tls_provider(tls::Provider::Rustls(CryptoMode::Ring)).build_https());
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(patience::CONNECT_TIMEOUT)
        .operation_attempt_timeout(patience::attempt_timeout())
        .build();
    let retries = RetryConfig::standard()
        .with_max_attempts(patience::ATTEMPTS)
        .with_initial_backoff(patience::first_pause())
        .with_max_backoff(patience::LONGEST_PAUSE);
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(https.clone())
        .region(Region::new(environment.region.clone()))
        .retry_config(retries)
        .timeout_config(timeouts)
}

/// An SDK error in one line: the service's code and message, or the chain of causes of a call that got no answer.
pub fn service_error<E, R>(error: SdkError<E, R>) -> anyhow::Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    if let (Some(code), message) = (error.code(), error.message()) {
        return anyhow::anyhow!("{code}: {}", message.unwrap_or("no message"));
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    anyhow::anyhow!(text)
}

/// The answer, or none where the service answered with the exception `code`.
pub fn unless<T, E, R>(answer: Result<T, SdkError<E, R>>, code: &str) -> Result<Option<T>>
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    R: std::fmt::Debug + Send + Sync + 'static,
{
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code() == Some(code) => Ok(None),
        Err(error) => Err(service_error(error)),
    }
}
