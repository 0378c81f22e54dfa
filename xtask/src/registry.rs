//! The image registry: pushing an assembled image and reading one back, by digest.
//!
//! The client tries nothing again by itself, so that is done here: throttling, failures of the service, broken connections and
//! bodies that ended too early. Everything sent is named by its digest, so sending it twice is sending it once.

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use reqwest::header::HeaderValue;

use crate::cloud::{Cloud, service_error};
use crate::image::{Image, MANIFEST_TYPE};
use crate::{artifact, digest, patience};

/// A repository that this process may read and write.
pub struct Repository {
    client: Client,
    login: Login,
    registry: String,
    name: String,
}

/// Who may read and write a registry, for as long as its token lasts.
pub struct Login {
    pub user: String,
    pub password: String,
    /// Whether the registry speaks without TLS: only the embedded cloud, on loopback, does.
    pub plain: bool,
}

/// The forms that an image may have, whoever pushed it.
const MANIFEST_TYPES: [&str; 2] = [MANIFEST_TYPE, artifact::MANIFEST_TYPE];

/// What a push did.
pub struct Pushed {
    /// Contents of the layers that had to be sent, such as `model`.
    pub sent: Vec<&'static str>,
    /// Compressed bytes of those layers.
    pub sent_bytes: u64,
}

impl Repository {
    /// Opens a repository by its address, `registry/name`.
    pub async fn open(cloud: &Cloud, uri: &str) -> Result<Repository> {
        let (registry, name) = uri.split_once('/').with_context(|| format!("`{uri}` is no repository address"))?;
        let answer = cloud
            .ecr
            .get_authorization_token()
            .send()
            .await
            .map_err(service_error)
            .context("ask the registry for a token")?;
        let data = answer.authorization_data().first().context("the registry gave no token")?;
        let token = data.authorization_token().context("the registry gave no token")?;
        let decoded = base64::engine::general_purpose::STANDARD.decode(token).context("decode the registry's token")?;
        let decoded = String::from_utf8(decoded).context("decode the registry's token")?;
        let (user, password) = decoded.split_once(':').context("decode the registry's token")?;
        let plain = data.proxy_endpoint().is_some_and(|endpoint| endpoint.starts_with("http://127.0.0.1:"));
        let protocol =
            if plain { ClientProtocol::HttpsExcept(vec![registry.to_string()]) } else { ClientProtocol::Https };
        let config = ClientConfig {
            protocol,
            connect_timeout: Some(patience::CONNECT_TIMEOUT),
            read_timeout: Some(patience::attempt_timeout()),
            ..Default::default()
        };
        let client = Client::try_from(config).context("make a registry client")?;
        let login = Login { user: user.to_string(), password: password.to_string(), plain };
        Ok(Repository { client, login, registry: registry.to_string(), name: name.to_string() })
    }

    /// Host and port of the registry.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// What another program needs to read and write it.
    pub fn login(&self) -> &Login {
        &self.login
    }

    /// The image's full name by tag, as container engines want it.
    pub fn name_by_tag(&self, tag: &str) -> String {
        self.tagged(tag).to_string()
    }

    /// The image's full name by digest, as container engines want it.
    pub fn name_by_digest(&self, digest: &str) -> String {
        self.digested(digest).to_string()
    }

    fn auth(&self) -> RegistryAuth {
        RegistryAuth::Basic(self.login.user.clone(), self.login.password.clone())
    }

    fn tagged(&self, tag: &str) -> Reference {
        Reference::with_tag(self.registry.clone(), self.name.clone(), tag.to_string())
    }

    fn digested(&self, digest: &str) -> Reference {
        Reference::with_digest(self.registry.clone(), self.name.clone(), digest.to_string())
    }

    /// Digest of the image that a tag names, if there is one.
    pub async fn digest_of_tag(&self, tag: &str) -> Result<Option<String>> {
        match self.pull_manifest(&self.tagged(tag)).await {
            // What the registry calls it is not asked: the digest is what the bytes are.
            Ok(bytes) => Ok(Some(digest::of_bytes(&bytes))),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("ask the registry for {}:{tag}", self.name)),
        }
    }

    async fn pull_manifest(&self, reference: &Reference) -> Result<Vec<u8>, OciDistributionError> {
        let auth = self.auth();
        let pull = || self.client.pull_manifest_raw(reference, &auth, &MANIFEST_TYPES);
        patience::retry(passes, pull).await.map(|(bytes, _)| bytes.to_vec())
    }

    /// Sends the layers that the registry does not have, then the manifest under `tag`, and reads it back.
    pub async fn push(&self, image: &Image, tag: &str) -> Result<Pushed> {
        let reference = self.tagged(tag);
        if self.is_tagged(tag, &image.digest).await? {
            return Ok(Pushed { sent: Vec::new(), sent_bytes: 0 });
        }
        let context = || format!("push {}:{tag}", self.name);
        self.sign_in(&reference).await.with_context(context)?;
        let mut pushed = Pushed { sent: Vec::new(), sent_bytes: 0 };
        for layer in &image.layers {
            if self.push_blob(&reference, &layer.bytes, &layer.digest).await.with_context(context)? {
                pushed.sent.push(layer.content);
                pushed.sent_bytes += layer.bytes.len() as u64;
            }
        }
        self.push_blob(&reference, &image.config, &image.config_digest).await.with_context(context)?;
        self.push_manifest(&reference, &image.manifest, tag, &image.digest).await.with_context(context)?;
        Ok(pushed)
    }

    async fn sign_in(&self, to: &Reference) -> Result<(), OciDistributionError> {
        let auth = self.auth();
        patience::retry(passes, || self.client.auth(to, &auth, RegistryOperation::Push)).await.map(|_| ())
    }

    /// Sends a manifest under a tag, and reads it back.
    async fn push_manifest(&self, to: &Reference, manifest: &[u8], tag: &str, digest: &str) -> Result<()> {
        let media_type: HeaderValue =
            artifact::media_type(manifest)?.parse().context("name the manifest's media type")?;
        let send = || self.client.push_manifest_raw(to, manifest.to_vec(), media_type.clone());
        let sent = patience::retry(passes, send).await;
        match (self.digest_of_tag(tag).await?, sent) {
            // A tag that was set and whose answer was lost cannot be set again; what it names is what counts.
            (Some(found), _) if found == digest => Ok(()),
            (_, Err(error)) => Err(error.into()),
            (found, Ok(_)) => bail!("{}:{tag} is {found:?} in the registry after sending {digest}", self.name),
        }
    }

    /// Sends a blob; gives whether the registry did not have it already.
    async fn push_blob(&self, to: &Reference, bytes: &[u8], digest: &str) -> Result<bool, OciDistributionError> {
        let ask = || self.client.blob_exists(to, digest);
        if patience::retry(passes, ask).await? {
            return Ok(false);
        }
        let send = || self.client.push_blob(to, bytes.to_vec(), digest);
        patience::retry(passes, send).await.map(|_| true)
    }

    /// Gives the image with this digest one more tag.
    ///
    /// # Errors
    /// The registry does not have the image, or the tag names another one.
    pub async fn tag(&self, digest: &str, tag: &str) -> Result<()> {
        if self.is_tagged(tag, digest).await? {
            return Ok(());
        }
        let context = || format!("tag {}@{digest} as {tag}", self.name);
        let manifest = self.manifest(digest).await?.context("the registry does not have it").with_context(context)?;
        let reference = self.tagged(tag);
        self.sign_in(&reference).await.with_context(context)?;
        self.push_manifest(&reference, &manifest, tag, digest).await.with_context(context)
    }

    /// Puts an in-toto Statement beside the image that it speaks of; gives its tag.
    ///
    /// # Errors
    /// The registry does not have the image, or refuses.
    pub async fn attach(&self, image: &str, title: &str, statement: &[u8]) -> Result<String> {
        let context = || format!("put {title} beside {}@{image}", self.name);
        let manifest =
            self.manifest(image).await?.context("the registry does not have the image").with_context(context)?;
        let artifact = artifact::about(&manifest, title, statement)?;
        let digest = digest::of_bytes(statement);
        let tag = artifact::tag(&digest);
        if self.is_tagged(&tag, &artifact.digest).await.with_context(context)? {
            return Ok(tag);
        }
        let reference = self.tagged(&tag);
        self.sign_in(&reference).await.with_context(context)?;
        for (bytes, digest) in [(statement, digest), (artifact::EMPTY, digest::of_bytes(artifact::EMPTY))] {
            self.push_blob(&reference, bytes, &digest).await.with_context(context)?;
        }
        self.push_manifest(&reference, &artifact.manifest, &tag, &artifact.digest).await.with_context(context)?;
        Ok(tag)
    }

    /// Whether a tag names the image with this digest.
    ///
    /// # Errors
    /// It names another one.
    async fn is_tagged(&self, tag: &str, digest: &str) -> Result<bool> {
        match self.digest_of_tag(tag).await? {
            None => Ok(false),
            Some(found) if found == digest => Ok(true),
            Some(found) => bail!(
                "{}:{tag} already names {found}, and tags never move: start a new run (leave --run out, or name another)",
                self.name
            ),
        }
    }

    /// The manifest with this digest, if the registry has it; its bytes are checked against the digest.
    pub async fn manifest(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        match self.pull_manifest(&self.digested(digest)).await {
            Ok(bytes) => {
                let found = digest::of_bytes(&bytes);
                if found != digest {
                    bail!("the registry gave a manifest with digest {found} for {}@{digest}", self.name);
                }
                Ok(Some(bytes))
            }
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}@{digest}", self.name)),
        }
    }

    /// A layer of the image `image`; its bytes are checked against the digest.
    pub async fn layer(&self, image: &str, layer: &str) -> Result<Vec<u8>> {
        let reference = self.digested(image);
        let pull = || async {
            let mut bytes = Vec::new();
            self.client.pull_blob(&reference, layer, &mut bytes).await.map(|()| bytes)
        };
        let bytes =
            patience::retry(passes, pull).await.with_context(|| format!("read layer {layer} of {}", self.name))?;
        let found = digest::of_bytes(&bytes);
        if found != layer {
            bail!("the registry gave a layer with digest {found} for {layer}");
        }
        Ok(bytes)
    }
}

/// Whether an error may be gone at the next attempt.
fn passes(error: &OciDistributionError) -> bool {
    let by_status = |status: u16| status == 429 || (status >= 500 && status != 501);
    match error {
        OciDistributionError::RequestError(error) => error.status().is_none_or(|status| by_status(status.as_u16())),
        OciDistributionError::ServerError { code, .. } => by_status(*code),
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|error| error.code == OciErrorCode::Toomanyrequests)
        }
        // The client takes a failure while it asks how to sign in for "no sign-in is needed", and is refused then.
        OciDistributionError::UnauthorizedError { .. } => true,
        // Bytes that are not what their digest says, or an upload's step that was answered with another status than agreed.
        OciDistributionError::IoError(_)
        | OciDistributionError::DigestError(_)
        | OciDistributionError::JsonError(_)
        | OciDistributionError::SpecViolationError(_) => true,
        _ => false,
    }
}

fn is_absent(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::RegistryError { envelope, .. } => envelope
            .errors
            .iter()
            .any(|error| matches!(error.code, OciErrorCode::ManifestUnknown | OciErrorCode::NotFound)),
        OciDistributionError::ServerError { code, .. } => *code == 404,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use local_aws::{LocalCloud, Options};

    use super::*;
    use crate::{config, image};

    const STATEMENT: &[u8] = b"{\"a\":1}";

    /// A registry with one image.
    async fn with_image(state: &Path) -> (LocalCloud, Repository, Image) {
        let options = Options { root: state.to_path_buf(), port: 0, region: "us-east-1".to_string() };
        let served = LocalCloud::start(options).await.unwrap();
        let config = config::parse(include_str!("../../pipeline.toml")).unwrap();
        let environment = config.environment("preprod").unwrap();
        let cloud = Cloud::at(served.endpoint_url().to_string(), environment, None).await;
        let uri = cloud.ensure_repository("images").await.unwrap();
        let repository = Repository::open(&cloud, &uri).await.unwrap();
        let image = image::assemble(b"program", b"model", "amd64").unwrap();
        repository.push(&image, "1").await.unwrap();
        (served, repository, image)
    }

    /// Digests of what the registry lists as being about an image.
    async fn referrers(served: &LocalCloud, repository: &Repository, image: &str) -> Vec<String> {
        let login = repository.login();
        let url = format!("{}/v2/images/referrers/{image}", served.endpoint_url());
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let answer = client.get(url).basic_auth(&login.user, Some(&login.password)).send().await.unwrap();
        let index: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let listed = index["manifests"].as_array().unwrap();
        listed.iter().map(|each| each["digest"].as_str().unwrap().to_string()).collect()
    }

    #[tokio::test]
    async fn a_statement_lies_beside_its_image_once() {
        let state = tempfile::tempdir().unwrap();
        let (served, repository, image) = with_image(state.path()).await;
        let tag = repository.attach(&image.digest, "bundle.json", STATEMENT).await.unwrap();
        assert_eq!(tag, artifact::tag(&digest::of_bytes(STATEMENT)));
        let attached = repository.digest_of_tag(&tag).await.unwrap().unwrap();
        assert_eq!(referrers(&served, &repository, &image.digest).await, std::slice::from_ref(&attached));
        assert_eq!(repository.layer(&attached, &digest::of_bytes(STATEMENT)).await.unwrap(), STATEMENT);
        // Once more nothing is there to do; another document lies beside the first.
        assert_eq!(repository.attach(&image.digest, "bundle.json", STATEMENT).await.unwrap(), tag);
        assert_eq!(referrers(&served, &repository, &image.digest).await.len(), 1);
        let other = repository.attach(&image.digest, "bundle.json", b"{\"a\":2}").await.unwrap();
        assert_ne!(other, tag);
        assert_eq!(referrers(&served, &repository, &image.digest).await.len(), 2);
        served.shutdown().await;
    }

    #[tokio::test]
    async fn a_statement_is_not_put_beside_another_image() {
        let state = tempfile::tempdir().unwrap();
        let (served, repository, image) = with_image(state.path()).await;
        let absent = digest::of_bytes(b"");
        let error = repository.attach(&absent, "bundle.json", STATEMENT).await.unwrap_err();
        assert!(format!("{error:#}").contains("the registry does not have the image"), "{error:#}");
        assert!(referrers(&served, &repository, &absent).await.is_empty());
        // Its tag is taken by something else.
        let tag = artifact::tag(&digest::of_bytes(STATEMENT));
        repository.tag(&image.digest, &tag).await.unwrap();
        let error = repository.attach(&image.digest, "bundle.json", STATEMENT).await.unwrap_err();
        assert!(format!("{error:#}").contains("already names"), "{error:#}");
        served.shutdown().await;
    }
}
