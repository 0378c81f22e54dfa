//! OpenID Connect providers: whose tokens may be exchanged for a role's credentials.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Answer, Iam, already_exists, invalid, no_entity, required, time};
use crate::{
    ACCOUNT_ID,
    query_api::Call,
    wire::{ApiError, escape_xml},
};

/// A provider.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Provider {
    created: DateTime<Utc>,
    clients: Vec<String>,
    thumbprints: Vec<String>,
}

fn arn(address: &str) -> String {
    format!("arn:aws:iam::{ACCOUNT_ID}:oidc-provider/{address}")
}

/// The address in the ARN that the call names.
fn address(call: &Call) -> Result<&str, ApiError> {
    let given = required(call, "OpenIDConnectProviderArn")?;
    given.strip_prefix(&arn("")).ok_or_else(|| invalid(format!("Invalid ARN: {given}")))
}

fn no_provider(address: &str) -> ApiError {
    no_entity(format!("OpenIDConnect Provider not found for arn {}", arn(address)))
}

fn members(values: &[String]) -> String {
    values.iter().map(|value| format!("<member>{}</member>", escape_xml(value))).collect()
}

/// `CreateOpenIDConnectProvider`
pub fn create(iam: &Iam, call: &Call) -> Answer {
    call.refuse_unknown(&["Url", "ClientIDList", "ThumbprintList"])?;
    let url = required(call, "Url")?;
    let address = url.strip_prefix("https://").map(|address| address.trim_end_matches('/'));
    let fits = |address: &&str| !address.is_empty() && !address.contains(['?', '#', ' ', '"', '<', '&']);
    let Some(address) = address.filter(fits) else { return Err(invalid("Invalid Open ID Connect Provider URL")) };
    let list = |name| call.list(name).into_iter().map(str::to_owned).collect();
    let provider = Provider { created: Utc::now(), clients: list("ClientIDList"), thumbprints: list("ThumbprintList") };
    iam.change(|state| {
        if state.providers.contains_key(address) {
            return Err(already_exists(format!("Provider with url {url} already exists.")));
        }
        state.providers.insert(address.to_owned(), provider);
        Ok(format!("<OpenIDConnectProviderArn>{}</OpenIDConnectProviderArn>", arn(address)))
    })
}

/// `GetOpenIDConnectProvider`
pub fn get(iam: &Iam, call: &Call) -> Answer {
    let address = address(call)?;
    iam.read(|state| {
        let provider = state.providers.get(address).ok_or_else(|| no_provider(address))?;
        Ok(format!(
            "<Url>{address}</Url><ClientIDList>{}</ClientIDList><ThumbprintList>{}</ThumbprintList><CreateDate>{}</CreateDate>",
            members(&provider.clients),
            members(&provider.thumbprints),
            time(provider.created)
        ))
    })
}

/// `ListOpenIDConnectProviders`
pub fn list(iam: &Iam, _call: &Call) -> Answer {
    iam.read(|state| {
        let arns: String =
            state.providers.keys().map(|address| format!("<member><Arn>{}</Arn></member>", arn(address))).collect();
        Ok(format!("<OpenIDConnectProviderList>{arns}</OpenIDConnectProviderList>"))
    })
}

/// `AddClientIDToOpenIDConnectProvider`; adding one that is there already is fine.
pub fn add_client(iam: &Iam, call: &Call) -> Answer {
    let (address, client) = (address(call)?, required(call, "ClientID")?);
    iam.change(|state| {
        let provider = state.providers.get_mut(address).ok_or_else(|| no_provider(address))?;
        if !provider.clients.iter().any(|known| known == client) {
            provider.clients.push(client.to_owned());
        }
        Ok(String::new())
    })
}

/// `DeleteOpenIDConnectProvider`; that there is none is fine.
pub fn delete(iam: &Iam, call: &Call) -> Answer {
    let address = address(call)?;
    iam.change(|state| {
        state.providers.remove(address);
        Ok(String::new())
    })
}
