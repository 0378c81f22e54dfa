//! What cannot be meant, although it can be read: of the policy sets, and of an environment alone and beside the others.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};

use super::github::is_word;
use super::{CloudKind, Config, Consequence, EVIDENCE_PREFIX, Environment, MailTls, PACKAGES, Package, PolicySet};
use crate::mail;

/// The numbers of days that CloudWatch can keep a log.
const LOG_RETENTION_DAYS: [u32; 22] =
    [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653];

/// A set that judges nothing, two of one name and a consequence for an environment that there is not are refused.
pub(super) fn policy_sets(sets: &[PolicySet], environments: &BTreeMap<String, Environment>) -> Result<()> {
    let mut names: Vec<_> = sets.iter().map(|set| &set.name).collect();
    names.sort();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        bail!("policy set `{}` is named twice", pair[0]);
    }
    for set in sets {
        if set.policies.is_empty() {
            bail!("policy set `{}` names no policy", set.name);
        }
        if let Consequence::ByEnvironment(by_name) = &set.on_failure {
            let unknown = by_name.keys().find(|name| *name != "default" && !environments.contains_key(*name));
            if let Some(name) = unknown {
                bail!("policy set `{}`: on_failure names the environment `{name}`, which there is not", set.name);
            }
        }
    }
    Ok(())
}

/// What can be said of an environment without its neighbours.
pub(super) fn alone(name: &str, environment: &Environment) -> Result<()> {
    if environment.account.len() != 12 || !environment.account.bytes().all(|byte| byte.is_ascii_digit()) {
        bail!("environment `{name}`: account `{}` is not twelve digits", environment.account);
    }
    environment.rollout.plan().with_context(|| format!("environment `{name}`: rollout"))?;
    if !LOG_RETENTION_DAYS.contains(&environment.log_retention_days) {
        let known: Vec<_> = LOG_RETENTION_DAYS.iter().map(u32::to_string).collect();
        bail!(
            "environment `{name}`: CloudWatch cannot keep logs for {} days; it can for {}",
            environment.log_retention_days,
            known.join(", ")
        );
    }
    if let Some(odd) = environment.github_environment.as_ref().filter(|name| !is_word(name)) {
        bail!("environment `{name}`: github_environment `{odd}` is more than letters, digits, `-`, `_` and `.`");
    }
    if environment.deploy_role.as_ref() == Some(&environment.role) {
        bail!("environment `{name}`: the function would run as the role that deploys it: name another deploy_role");
    }
    Ok(())
}

/// What needs the other environments, or what was filled in from them.
pub(super) fn among(config: &Config, name: &str, environment: &Environment) -> Result<()> {
    check_package(environment).with_context(|| format!("environment `{name}`"))?;
    check_promotion(config, name, environment)?;
    check_own_names(config, name, environment)?;
    check_published(environment).with_context(|| format!("environment `{name}`"))?;
    check_mail(environment).with_context(|| format!("[environments.{name}.mail]"))
}

/// What is published can be read by everybody, the evidence by nobody outside.
fn check_published(environment: &Environment) -> Result<()> {
    let folder = environment.report_key.rsplit_once('/').map(|(folder, _)| format!("{folder}/"));
    let report = folder.as_ref().unwrap_or(&environment.report_key);
    for (key, prefix) in [("web_prefix", &environment.web_prefix), ("report_key", report)] {
        if EVIDENCE_PREFIX.starts_with(prefix.as_str()) || prefix.starts_with(EVIDENCE_PREFIX) {
            bail!(
                "{key} publishes `{prefix}*` and with it `{EVIDENCE_PREFIX}`, which is kept closed: name another folder"
            );
        }
    }
    Ok(())
}

/// What an environment takes over must lie where it deploys from: the image is referred to by digest, never copied.
fn check_promotion(config: &Config, name: &str, environment: &Environment) -> Result<()> {
    let Some(source_name) = &environment.promotes else { return Ok(()) };
    let source = config.environment(source_name).with_context(|| format!("environment `{name}` promotes it"))?;
    if source.promotes.is_some() {
        bail!("environment `{name}` promotes `{source_name}`, which itself promotes another");
    }
    let place = |environment: &Environment| {
        let Environment { cloud, account, region, inference_repository, .. } = environment;
        (*cloud, account.clone(), region.clone(), inference_repository.clone())
    };
    if place(source) != place(environment) {
        bail!(
            "environment `{name}` promotes `{source_name}`, so cloud, account, region and inference_repository must be the same"
        );
    }
    if source.package != environment.package {
        bail!(
            "environment `{name}` promotes `{source_name}` and would deploy a {}, which that one deploys as {}: write the same package",
            environment.package.in_words(),
            source.package.in_words()
        );
    }
    if source.function == environment.function {
        bail!("environments `{name}` and `{source_name}` both name the function `{}`", source.function);
    }
    Ok(())
}

/// Packages are not for the public.
fn check_package(environment: &Environment) -> Result<()> {
    let folder = environment.report_key.rsplit_once('/').map_or("", |(folder, _)| folder);
    let published = [environment.web_prefix.clone(), format!("{folder}/")];
    if environment.package == Package::Zip
        && let Some(prefix) = published.iter().find(|prefix| *prefix != "/" && PACKAGES.starts_with(prefix.as_str()))
    {
        bail!("everything below `{prefix}` in the bucket is published, and the zip packages lie in `{PACKAGES}`");
    }
    Ok(())
}

/// Passwords and models' names do not cross a network in the open, and no setting is silently without effect.
fn check_mail(environment: &Environment) -> Result<()> {
    let Some(server) = &environment.mail else { return Ok(()) };
    if environment.cloud == CloudKind::Embedded {
        bail!("the embedded cloud keeps its mail in an outbox and sends none: remove the table");
    }
    if server.tls == MailTls::None && !mail::is_loopback(&server.host) {
        bail!(
            "mail to {} must be encrypted: write `tls = \"starttls\"` or `tls = \"implicit\"`; only loopback may do without",
            server.host
        );
    }
    Ok(())
}

/// What is set up for one environment would be set up differently for the next, and removed with the first.
fn check_own_names(config: &Config, name: &str, environment: &Environment) -> Result<()> {
    let place = |environment: &Environment| (environment.cloud, environment.account.clone());
    for (other_name, other) in config.environments.iter().filter(|(_, other)| place(other) == place(environment)) {
        if name >= other_name.as_str() {
            continue;
        }
        let roles = |environment: &Environment| [Some(environment.role.clone()), environment.deploy_role.clone()];
        let shared = roles(environment).into_iter().flatten().find(|role| roles(other).contains(&Some(role.clone())));
        if let Some(role) = shared {
            bail!("environments `{name}` and `{other_name}` both name the role `{role}`: each needs its own");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{SHIPPED, parse};

    #[test]
    fn a_package_is_an_image_unless_a_zip_is_asked_for() {
        let config = parse(SHIPPED).unwrap();
        assert!(config.environments.values().all(|environment| environment.package == Package::Image));
        let zip = |environment: &str, text: &str| {
            let table = format!("[environments.{environment}]\n");
            assert!(text.contains(&table));
            text.replacen(&table, &format!("{table}package = \"zip\"\n"), 1)
        };
        let one = format!("{:#}", parse(&zip("preprod", SHIPPED)).unwrap_err());
        assert!(one.contains("`production` promotes `preprod`") && one.contains("the same package"), "{one}");
        let both = zip("production", &zip("preprod", SHIPPED));
        let config = parse(&both).unwrap();
        let production = config.environment("production").unwrap();
        assert_eq!(production.packages_arn(), "arn:aws:s3:::mlopswebapp-000000000000/packages/*");
        for (old, new) in [("web_prefix = \"web/\"", "web_prefix = \"pack\""), ("harness/output/", "packages/")] {
            let public = format!("{:#}", parse(&both.replace(old, new)).unwrap_err());
            assert!(public.contains("is published"), "{public}");
        }
        assert!(parse(&both.replace("\"zip\"", "\"tar\"")).is_err());
    }

    #[test]
    fn mail_in_the_open_and_addresses_that_are_none_are_refused() {
        let refused = |old: &str, new: &str| {
            assert!(SHIPPED.contains(old), "{old}");
            format!("{:#}", parse(&SHIPPED.replacen(old, new, 1)).unwrap_err())
        };
        let open = refused("tls = \"starttls\"", "tls = \"none\"");
        assert!(open.contains("[environments.preprod.mail]") && open.contains("must be encrypted"), "{open}");
        let address = refused("model-owners@example.com", "model-owners");
        assert!(address.contains("`model-owners` is no mail address"), "{address}");
        let unused = refused("[environments.preprod.mail]", "[environments.local.mail]");
        assert!(unused.contains("outbox"), "{unused}");
        parse(&SHIPPED.replacen("email-smtp.us-east-1.amazonaws.com", "127.0.0.1", 1).replacen("starttls", "none", 1))
            .unwrap();
    }
}
