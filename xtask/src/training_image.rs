//! The training image: `Dockerfile` of the model's folder, built by a container engine, pushed, and found again.
//!
//! An image costs minutes and hundreds of megabytes, so it is built once for the same folder, on whichever machine: in the
//! registry it has a tag that is made of the folder's digest, beside the tags of the runs that use it.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::config::TrainingImage as Wanted;
use crate::context::Context;
use crate::registry::Repository;
use crate::terminal::note;
use crate::{digest, engine};

/// The image that the notebook's tests run in, or why there is none.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrainingImage {
    /// Whether there is one.
    pub built: bool,
    /// Why there is none; where it comes from, if there is one.
    pub reason: String,
    /// The engine that built it in this run; none if it was there already.
    pub engine: Option<String>,
    pub image: Option<Pushed>,
}

/// An image in the registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pushed {
    pub repository: String,
    pub tag: String,
    pub digest: String,
}

impl TrainingImage {
    fn none(reason: impl Into<String>) -> TrainingImage {
        TrainingImage { built: false, reason: reason.into(), engine: None, image: None }
    }
}

/// Brings the training image of the model's folder to the registry, under the run's tag, if the environment wants one.
///
/// # Errors
/// It cannot be built or pushed, or the environment requires it and no container engine answers.
pub fn provide(context: &Context, run: &str, log: &Path) -> Result<TrainingImage> {
    let environment = &context.environment;
    let wanted = environment.training_image;
    if wanted == Wanted::Off {
        return Ok(TrainingImage::none("pipeline.toml says `training_image = \"off\"` for this environment"));
    }
    let folder = context.root.join(&context.config.model.directory);
    let name = &environment.training_repository;
    let cloud = context.cloud()?;
    let (repository, tag) = context.block_on(async {
        let uri = cloud.ensure_repository(name).await?;
        anyhow::Ok((Repository::open(cloud, &uri).await?, tag_of_sources(&digest::of_tree(&folder)?)))
    })?;
    let known = context.block_on(repository.digest_of_tag(&tag))?;
    let (image, reason, engine) = match known {
        Some(image) => (image, "the registry has it from an earlier run".to_string(), None),
        None => {
            let engine = match engine::find(&context.root) {
                Ok(engine) => engine,
                Err(error) if wanted == Wanted::WherePossible => return Ok(TrainingImage::none(format!("{error:#}"))),
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("environment `{}` requires the training image", context.environment_name)
                    });
                }
            };
            let full_name = repository.name_by_tag(&tag);
            note(&format!("building the training image with {}", engine.name()));
            engine.build(&full_name, &folder, log)?;
            let log = log.with_extension("push.log");
            engine.sign_in(repository.registry(), repository.login(), &log)?.push(&full_name, &log)?;
            let image = context
                .block_on(repository.digest_of_tag(&tag))?
                .with_context(|| format!("the registry has no {full_name} after {} pushed it", engine.name()))?;
            (image, format!("built by {}", engine.name()), Some(engine.name().to_string()))
        }
    };
    context.block_on(repository.tag(&image, run))?;
    note(&format!("training image {}: {reason}", digest::short(&image)));
    let pushed = Pushed { repository: name.clone(), tag: run.to_string(), digest: image };
    Ok(TrainingImage { built: true, reason, engine, image: Some(pushed) })
}

/// The tag under which the image of a folder is found again.
fn tag_of_sources(folder: &str) -> String {
    let hex = folder.trim_start_matches("sha256:");
    format!("sources-{}", &hex[..hex.len().min(40)])
}

/// Whether the registry still has the image.
pub fn is_there(context: &Context, image: &Pushed) -> Result<bool> {
    let cloud = context.cloud()?;
    context.block_on(async {
        let uri = cloud.ensure_repository(&image.repository).await?;
        Ok(Repository::open(cloud, &uri).await?.manifest(&image.digest).await?.is_some())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_of_the_sources() {
        let first = tag_of_sources(&digest::of_bytes(b"1"));
        assert_ne!(first, tag_of_sources(&digest::of_bytes(b"2")));
        assert!(first.len() <= 128 && first.starts_with("sources-"), "{first}");
    }

    #[test]
    fn the_dockerfile_installs_the_uv_that_made_the_lock() {
        let dockerfile = include_str!("../../model/Dockerfile");
        assert!(dockerfile.contains(&format!("uv=={}\n", crate::tools::UV_VERSION)));
    }
}
