//! Functions and their versions.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::Utc;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    Call, check_revision, conflict, image, invalid,
    model::{self, Code, Config, Function, LATEST, State, Version},
    no_resource, package, page,
    settings::{CONFIGURABLE, architecture, configure},
    validation,
};
use crate::{
    disk::{self, lock},
    server::Cloud,
    wire::{ApiError, uuid},
};

/// How long a change stays visibly in progress, so that callers who do not wait for it find out here.
const SETTLING: Duration = Duration::from_millis(25);

/// `CreateFunction`
pub async fn create(call: &Call<'_>) -> Result<Value, ApiError> {
    let cloud = call.cloud;
    let known = ["FunctionName", "Code", "PackageType", "Architectures", "Publish", "Tags"];
    call.refuse_unknown("CreateFunction", &[&known, CONFIGURABLE].concat())?;
    let (name, _) = super::parse_name(cloud, call.required("FunctionName")?)?;
    call.required("Role")?;
    let architecture = architecture(&call.input)?.unwrap_or_else(|| "x86_64".to_owned());
    let kind = call.text("PackageType")?.unwrap_or("Zip");
    if !["Image", "Zip"].contains(&kind) {
        return Err(validation(format!(
            "1 validation error detected: Value '{kind}' at 'packageType' failed to satisfy constraint: Member must satisfy enum \
             value set: [Zip, Image]"
        )));
    }
    if lock(&cloud.lambda.functions).contains_key(&name) {
        return Err(conflict(format!("Function already exist: {name}")));
    }
    let code = if kind == "Image" { new_image(call, &architecture)? } else { new_package(call).await? };
    let mut config = Config {
        code,
        runtime: None,
        handler: None,
        role: String::new(),
        description: String::new(),
        timeout: 3,
        memory: 128,
        architecture,
        environment: BTreeMap::new(),
        image_config: None,
        ephemeral_storage: 512,
    };
    configure(call, &mut config)?;
    let tags = call.input["Tags"].as_object().into_iter().flatten();
    let mut function = Function {
        id: uuid(),
        name: name.clone(),
        tags: tags.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect(),
        state: State::Pending,
        latest: Version { config, last_modified: Utc::now(), revision_id: uuid() },
        serving: None,
        generation: 0,
        versions: BTreeMap::new(),
        next_version: 1,
        aliases: BTreeMap::new(),
        urls: BTreeMap::new(),
        policies: BTreeMap::new(),
    };
    let mut output = function.configuration(cloud, LATEST, &function.latest);
    if call.input["Publish"].as_bool() == Some(true) {
        output = publish_now(cloud, &mut function, None);
    }
    {
        let mut functions = lock(&cloud.lambda.functions);
        if functions.contains_key(&name) {
            return Err(conflict(format!("Function already exist: {name}")));
        }
        disk::write_json(&cloud.lambda.path(&name), &function)?;
        functions.insert(name.clone(), function);
    }
    settle_later(cloud, &name);
    Ok(output)
}

/// The image that a new function is to have.
fn new_image(call: &Call, architecture: &str) -> Result<Code, ApiError> {
    let source = &call.input["Code"];
    if package::is_named(source) {
        return Err(invalid("Please don't provide a zip package when the intended function PackageType is Image."));
    }
    let uri = source["ImageUri"].as_str().ok_or_else(|| invalid("Please provide a source image with ImageUri."))?;
    Ok(Code::Image(image::resolve(call.cloud, uri, architecture)?))
}

/// The zip package that a new function is to have.
async fn new_package(call: &Call<'_>) -> Result<Code, ApiError> {
    let source = &call.input["Code"];
    if !source["ImageUri"].is_null() {
        return Err(invalid("Please don't provide ImageUri when the intended function PackageType is Zip."));
    }
    if call.text("Runtime")?.is_none() || call.text("Handler")?.is_none() {
        return Err(invalid(
            "Runtime and Handler are mandatory parameters for functions created with deployment packages.",
        ));
    }
    Ok(Code::Zip(package::load(call, source).await?))
}

/// `ListFunctions`
pub fn list(call: &Call) -> Result<Value, ApiError> {
    let all = call.query.get("FunctionVersion").is_some_and(|version| version == "ALL");
    let functions = lock(&call.cloud.lambda.functions);
    let items = functions.values().flat_map(|function| {
        let mut items = vec![function.configuration(call.cloud, LATEST, &function.latest)];
        if all {
            items.extend(
                function
                    .versions
                    .iter()
                    .map(|(number, version)| function.configuration(call.cloud, &number.to_string(), version)),
            );
        }
        items
    });
    page(call, "Functions", items.collect())
}

/// `GetFunctionConfiguration`
pub fn get_configuration(call: &Call) -> Result<Value, ApiError> {
    call.cloud.lambda.read(call.cloud, &call.name, |function| {
        let (number, version) = function.version(call.cloud, call.qualifier.as_deref())?;
        Ok(function.configuration(call.cloud, &number, version))
    })
}

/// `GetFunction`
pub fn get(call: &Call) -> Result<Value, ApiError> {
    let cloud = call.cloud;
    cloud.lambda.read(cloud, &call.name, |function| {
        let (number, version) = function.version(cloud, call.qualifier.as_deref())?;
        let code = match &version.config.code {
            Code::Image(code) => {
                let repository = format!("{}/{}", cloud.host, code.repository);
                json!({
                    "RepositoryType": "ECR",
                    "ImageUri": format!("{repository}{}", code.reference),
                    "ResolvedImageUri": format!("{repository}@{}", code.digest),
                })
            }
            Code::Zip(code) => json!({ "RepositoryType": "S3", "Location": package::location(cloud, code) }),
        };
        let mut output = json!({ "Configuration": function.configuration(cloud, &number, version), "Code": code });
        if !function.tags.is_empty() {
            output["Tags"] = json!(function.tags);
        }
        Ok(output)
    })
}

/// `DeleteFunction`
pub fn delete(call: &Call) -> Result<(), ApiError> {
    let lambda = &call.cloud.lambda;
    let Some(qualifier) = call.qualifier.as_deref() else {
        let id = {
            let mut functions = lock(&lambda.functions);
            let function =
                functions.get(&call.name).ok_or_else(|| super::not_found(&model::arn(call.cloud, &call.name, None)))?;
            let id = function.id.clone();
            disk::remove_file(&lambda.path(&call.name)).map_err(ApiError::internal)?;
            functions.remove(&call.name);
            id
        };
        lambda.pool.retire(|key| key.function == id);
        return Ok(());
    };
    let id = lambda.change(call.cloud, &call.name, |function| {
        if qualifier == LATEST {
            return Err(invalid("$LATEST version cannot be deleted without deleting the function."));
        }
        if function.aliases.contains_key(qualifier) {
            return Err(invalid("Deletion of aliases is not currently supported."));
        }
        let used = function
            .aliases
            .iter()
            .find(|(_, alias)| alias.version == qualifier || alias.weights.contains_key(qualifier));
        if let Some((alias, _)) = used {
            return Err(conflict(format!(
                "Unable to delete version because the following aliases reference it: [{alias}]"
            )));
        }
        let number =
            qualifier.parse::<u64>().map_err(|_| super::not_found(&function.arn(call.cloud, Some(qualifier))))?;
        // Deleting a version that is not there succeeds, as in AWS.
        function.versions.remove(&number);
        Ok(function.id.clone())
    })?;
    lambda.pool.retire(|key| key.function == id && key.version == qualifier);
    Ok(())
}

/// Refuses changes while one is being applied.
fn check_settled(cloud: &Cloud, function: &Function) -> Result<(), ApiError> {
    match function.state {
        State::Pending => Err(conflict(
            "The operation cannot be performed at this time. The function is currently in the following state: Pending",
        )),
        State::Updating => Err(conflict(format!(
            "The operation cannot be performed at this time. An update is in progress for resource: {}",
            function.arn(cloud, None)
        ))),
        _ => Ok(()),
    }
}

/// Puts a new configuration on `$LATEST` and begins to apply it.
fn begin_update(function: &mut Function, config: Config) {
    let before = std::mem::replace(&mut function.latest.config, config);
    if function.state == State::Active {
        function.serving = Some(before);
    }
    // After a failed creation there is nothing that could serve meanwhile.
    function.state = match function.state {
        State::Failed(_) => State::Pending,
        _ => State::Updating,
    };
    function.latest.last_modified = Utc::now();
    function.latest.revision_id = uuid();
}

/// `UpdateFunctionCode`
pub async fn update_code(call: &Call<'_>) -> Result<Value, ApiError> {
    let cloud = call.cloud;
    call.refuse_unknown(
        "UpdateFunctionCode",
        &[
            "ImageUri",
            "Architectures",
            "Publish",
            "DryRun",
            "RevisionId",
            "ZipFile",
            "S3Bucket",
            "S3Key",
            "S3ObjectVersion",
        ],
    )?;
    let revision = call.text("RevisionId")?;
    let current = cloud.lambda.read(cloud, &call.name, |function| {
        check_revision(revision, &function.latest.revision_id)?;
        Ok(function.latest.config.clone())
    })?;
    let architecture = architecture(&call.input)?.unwrap_or(current.architecture);
    let code = match (&current.code, call.text("ImageUri")?) {
        (Code::Image(_), Some(uri)) if !package::is_named(&call.input) => {
            Code::Image(image::resolve(cloud, uri, &architecture)?)
        }
        (Code::Image(_), _) => {
            return Err(invalid("Please provide ImageUri when updating a function with packageType Image."));
        }
        (Code::Zip(_), None) => Code::Zip(package::load(call, &call.input).await?),
        (Code::Zip(_), Some(_)) => {
            return Err(invalid("Please don't provide ImageUri when updating a function with packageType Zip."));
        }
    };
    let dry_run = call.input["DryRun"].as_bool() == Some(true);
    let output = cloud.lambda.change(cloud, &call.name, |function| {
        check_revision(revision, &function.latest.revision_id)?;
        check_settled(cloud, function)?;
        let config = Config { code, architecture, ..function.latest.config.clone() };
        if dry_run {
            let would = Version { config, ..function.latest.clone() };
            return Ok(function.configuration(cloud, LATEST, &would));
        }
        begin_update(function, config);
        if call.input["Publish"].as_bool() == Some(true) {
            return Ok(publish_now(cloud, function, None));
        }
        Ok(function.configuration(cloud, LATEST, &function.latest))
    })?;
    if !dry_run {
        settle_later(cloud, &call.name);
    }
    Ok(output)
}

/// `UpdateFunctionConfiguration`
pub fn update_configuration(call: &Call) -> Result<Value, ApiError> {
    let cloud = call.cloud;
    call.refuse_unknown("UpdateFunctionConfiguration", CONFIGURABLE)?;
    let revision = call.text("RevisionId")?;
    let output = cloud.lambda.change(cloud, &call.name, |function| {
        check_revision(revision, &function.latest.revision_id)?;
        check_settled(cloud, function)?;
        let mut config = function.latest.config.clone();
        configure(call, &mut config)?;
        begin_update(function, config);
        Ok(function.configuration(cloud, LATEST, &function.latest))
    })?;
    settle_later(cloud, &call.name);
    Ok(output)
}

/// Makes a version of `$LATEST`, or finds that the last one is the same.
fn publish_now(cloud: &Cloud, function: &mut Function, description: Option<&str>) -> Value {
    let same = |version: &Version| {
        // The description belongs to the version and is no reason for another.
        let mut config = version.config.clone();
        config.description.clone_from(&function.latest.config.description);
        config == function.latest.config
    };
    let last = function.versions.last_key_value().filter(|(_, version)| same(version)).map(|(number, _)| *number);
    let number = last.unwrap_or_else(|| {
        let number = function.next_version;
        let mut version = function.latest.clone();
        version.revision_id = uuid();
        if let Some(description) = description {
            version.config.description = description.to_owned();
        }
        function.versions.insert(number, version);
        function.next_version += 1;
        number
    });
    function.configuration(cloud, &number.to_string(), &function.versions[&number])
}

/// `PublishVersion`
pub fn publish(call: &Call) -> Result<Value, ApiError> {
    let cloud = call.cloud;
    call.refuse_unknown("PublishVersion", &["CodeSha256", "Description", "RevisionId"])?;
    let (revision, sha) = (call.text("RevisionId")?, call.text("CodeSha256")?);
    let description = call.text("Description")?;
    cloud.lambda.change(cloud, &call.name, |function| {
        check_revision(revision, &function.latest.revision_id)?;
        let actual = function.latest.config.code.sha256();
        if let Some(sha) = sha.filter(|sha| !sha.is_empty() && *sha != actual) {
            return Err(invalid(format!(
                "CodeSHA256 ({sha}) is different from current CodeSHA256 in $LATEST ({actual}). Please try again \
                 with the CodeSHA256 in $LATEST."
            )));
        }
        check_settled(cloud, function)?;
        Ok(publish_now(cloud, function, description))
    })
}

/// `ListVersionsByFunction`
pub fn list_versions(call: &Call) -> Result<Value, ApiError> {
    let items = call.cloud.lambda.read(call.cloud, &call.name, |function| {
        let published = function
            .versions
            .iter()
            .map(|(number, version)| function.configuration(call.cloud, &number.to_string(), version));
        Ok([function.configuration(call.cloud, LATEST, &function.latest)].into_iter().chain(published).collect())
    })?;
    page(call, "Versions", items)
}

/// Goes on with what a stopped process left in progress, and ends idle processes from time to time.
pub fn resume(cloud: &Arc<Cloud>) {
    let unsettled: Vec<String> = lock(&cloud.lambda.functions)
        .values()
        .filter(|function| matches!(function.state, State::Pending | State::Updating))
        .map(|function| function.name.clone())
        .collect();
    for name in unsettled {
        settle_later(cloud, &name);
    }
    super::pool::end_idle_workers(cloud);
}

/// Applies a change after a moment: unpacks the code, then makes it what `$LATEST` runs.
fn settle_later(cloud: &Arc<Cloud>, name: &str) {
    let (lambda, cloud, name) = (&cloud.lambda, cloud.clone(), name.to_owned());
    lambda.spawn(async move {
        tokio::time::sleep(SETTLING).await;
        let read = cloud.lambda.read(&cloud, &name, |function| {
            Ok((function.id.clone(), function.latest.revision_id.clone(), function.latest.config.code.clone()))
        });
        let Ok((id, revision, code)) = read else { return };
        let unpacked = image::unpacked(&cloud, &code).await;
        let changed = cloud.lambda.change(&cloud, &name, |function| {
            if function.id != id || function.latest.revision_id != revision {
                return Err(no_resource());
            }
            match unpacked {
                Ok(_) => {
                    function.state = State::Active;
                    function.serving = None;
                    function.generation += 1;
                }
                Err(error) => {
                    let reason = format!("{error:#}");
                    function.state = match function.state {
                        State::Pending => State::Failed(reason),
                        _ => State::UpdateFailed(reason),
                    };
                }
            }
            // Reaching a state is a change of its own: a revision read before it is stale afterwards, as in AWS.
            function.latest.revision_id = uuid();
            Ok(function.generation)
        });
        match changed {
            Ok(generation) => cloud
                .lambda
                .pool
                .retire(|key| key.function == id && key.version == LATEST && key.generation != generation),
            Err(error) if error.status == StatusCode::INTERNAL_SERVER_ERROR => {
                // The disk refused the change; the next start tries again.
                eprintln!("local-aws: {name}: {}", error.message);
            }
            Err(_) => {}
        }
    });
}
