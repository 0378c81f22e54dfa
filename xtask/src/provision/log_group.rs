//! The function's log group: made before the function writes to it, so that it forgets after the days that pipeline.toml says.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Action, Resource, Work};
use crate::account::{LOGS, unless};

const KIND: &str = "log group";

/// Makes the group and sets how long it keeps what it gets.
pub async fn ensure(work: &Work<'_>) -> Result<Resource> {
    let (name, days) = (work.environment().log_group(), work.environment().log_retention_days);
    let differences = describe(work, &name).await?.map(|found| match found["retentionInDays"].as_u64() {
        Some(found) if found == u64::from(days) => Vec::new(),
        Some(found) => vec![format!("keeps events for {found} days, should for {days}")],
        None => vec![format!("keeps events for ever, should for {days} days")],
    });
    let resource = Resource::compared(KIND, &name, differences);
    if work.touches(&resource) {
        if resource.action == Action::Create {
            // Lambda makes it, too, if the function is quicker.
            let answer = work.cloud.json(&LOGS, "CreateLogGroup", &json!({"logGroupName": name})).await;
            unless(answer, "ResourceAlreadyExistsException")?;
        }
        let input = json!({"logGroupName": name, "retentionInDays": days});
        work.cloud
            .json(&LOGS, "PutRetentionPolicy", &input)
            .await
            .with_context(|| format!("set how long {name} keeps its events"))?;
    }
    Ok(resource)
}

async fn describe(work: &Work<'_>, name: &str) -> Result<Option<Value>> {
    let input = json!({"logGroupNamePrefix": name});
    let answer = work.cloud.json(&LOGS, "DescribeLogGroups", &input).await?;
    // The names come in order, so the one that is the prefix itself is on the first page.
    let groups = answer["logGroups"].as_array().context("the answer has no log groups")?;
    Ok(groups.iter().find(|group| group["logGroupName"] == name).cloned())
}

/// Removes the group and what is in it.
pub async fn remove(work: &Work<'_>) -> Result<Resource> {
    let name = work.environment().log_group();
    if describe(work, &name).await?.is_none() {
        return Ok(Resource::skipped(KIND, &name, "is not there"));
    }
    let resource = Resource::new(KIND, &name, Action::Delete, Vec::new());
    if work.touches(&resource) {
        let answer = work.cloud.json(&LOGS, "DeleteLogGroup", &json!({"logGroupName": name})).await;
        unless(answer, "ResourceNotFoundException")?;
    }
    Ok(resource)
}
