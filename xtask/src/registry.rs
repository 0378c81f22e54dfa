//! The image registry: pushing an assembled image and reading one back, by digest.

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};

use crate::cloud::{Cloud, service_error};
use crate::digest;
use crate::image::{Image, MANIFEST_TYPE};

/// A repository that this process may read and write.
pub struct Repository {
    client: Client,
    auth: RegistryAuth,
    registry: String,
    name: String,
}

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
        // Only the embedded cloud, on loopback, speaks without TLS.
        let plain = data.proxy_endpoint().is_some_and(|endpoint| endpoint.starts_with("http://127.0.0.1:"));
        let protocol =
            if plain { ClientProtocol::HttpsExcept(vec![registry.to_string()]) } else { ClientProtocol::Https };
        let client =
            Client::try_from(ClientConfig { protocol, ..Default::default() }).context("make a registry client")?;
        let auth = RegistryAuth::Basic(user.to_string(), password.to_string());
        Ok(Repository { client, auth, registry: registry.to_string(), name: name.to_string() })
    }

    fn tagged(&self, tag: &str) -> Reference {
        Reference::with_tag(self.registry.clone(), self.name.clone(), tag.to_string())
    }

    fn digested(&self, digest: &str) -> Reference {
        Reference::with_digest(self.registry.clone(), self.name.clone(), digest.to_string())
    }

    /// Digest of the image that a tag names, if there is one.
    pub async fn digest_of_tag(&self, tag: &str) -> Result<Option<String>> {
        match self.client.pull_manifest_raw(&self.tagged(tag), &self.auth, &[MANIFEST_TYPE]).await {
            Ok((_, digest)) => Ok(Some(digest)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("ask the registry for {}:{tag}", self.name)),
        }
    }

    /// Sends the layers that the registry does not have, then the manifest under `tag`, and reads it back.
    pub async fn push(&self, image: &Image, tag: &str) -> Result<Pushed> {
        let reference = self.tagged(tag);
        let context = || format!("push {}:{tag}", self.name);
        if let Some(digest) = self.digest_of_tag(tag).await? {
            if digest == image.digest {
                return Ok(Pushed { sent: Vec::new(), sent_bytes: 0 });
            }
            bail!(
                "{}:{tag} already names {digest}, and tags never move: start a new run (leave --run out, or name another)",
                self.name
            );
        }
        self.client.auth(&reference, &self.auth, RegistryOperation::Push).await.with_context(context)?;
        let mut pushed = Pushed { sent: Vec::new(), sent_bytes: 0 };
        for layer in &image.layers {
            if self.client.blob_exists(&reference, &layer.digest).await.with_context(context)? {
                continue;
            }
            self.client.push_blob(&reference, layer.bytes.clone(), &layer.digest).await.with_context(context)?;
            pushed.sent.push(layer.content);
            pushed.sent_bytes += layer.bytes.len() as u64;
        }
        if !self.client.blob_exists(&reference, &image.config_digest).await.with_context(context)? {
            self.client
                .push_blob(&reference, image.config.clone(), &image.config_digest)
                .await
                .with_context(context)?;
        }
        let media_type = MANIFEST_TYPE.parse().context("name the manifest's media type")?;
        self.client.push_manifest_raw(&reference, image.manifest.clone(), media_type).await.with_context(context)?;
        match self.digest_of_tag(tag).await? {
            Some(digest) if digest == image.digest => Ok(pushed),
            found => bail!("{}:{tag} is {found:?} in the registry after pushing {}", self.name, image.digest),
        }
    }

    /// The manifest with this digest, if the registry has it; its bytes are checked against the digest.
    pub async fn manifest(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        match self.client.pull_manifest_raw(&self.digested(digest), &self.auth, &[MANIFEST_TYPE]).await {
            Ok((bytes, _)) => {
                let found = digest::of_bytes(&bytes);
                if found != digest {
                    bail!("the registry gave a manifest with digest {found} for {}@{digest}", self.name);
                }
                Ok(Some(bytes.to_vec()))
            }
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}@{digest}", self.name)),
        }
    }

    /// A layer of the image `image`; its bytes are checked against the digest.
    pub async fn layer(&self, image: &str, layer: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.client
            .pull_blob(&self.digested(image), layer, &mut bytes)
            .await
            .with_context(|| format!("read layer {layer} of {}", self.name))?;
        let found = digest::of_bytes(&bytes);
        if found != layer {
            bail!("the registry gave a layer with digest {found} for {layer}");
        }
        Ok(bytes)
    }
}

fn is_absent(error: &oci_client::errors::OciDistributionError) -> bool {
    use oci_client::errors::{OciDistributionError, OciErrorCode};
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
