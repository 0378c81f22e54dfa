//! Who may do what: the policies of the roles and of the repositories, as pure functions of pipeline.toml.

use serde_json::{Value, json};

use crate::config::{Environment, GitHub, Package};

/// Where GitHub's tokens come from.
pub const GITHUB_ISSUER: &str = "token.actions.githubusercontent.com";
/// Whom the tokens are for.
pub const GITHUB_AUDIENCE: &str = "sts.amazonaws.com";

/// How many training images are kept.
const TRAINING_IMAGES_KEPT: u32 = 30;
/// How long an image stays that has no tag.
const UNTAGGED_DAYS: u32 = 14;

fn document(statements: Vec<Value>) -> Value {
    json!({"Version": "2012-10-17", "Statement": statements})
}

/// Lambda may take the execution role, for functions of this account alone.
pub fn execution_trust(environment: &Environment) -> Value {
    document(vec![json!({
        "Sid": "RunTheFunction",
        "Effect": "Allow",
        "Principal": {"Service": "lambda.amazonaws.com"},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"aws:SourceAccount": environment.account}},
    })])
}

/// The function may write to its own log, and nothing else. It may not make the group: one that came back by itself would keep
/// its events for ever.
pub fn execution_permissions(environment: &Environment) -> Value {
    let group = environment.arn("logs", &format!("log-group:{}", environment.log_group()));
    document(vec![json!({
        "Sid": "WriteOwnLog",
        "Effect": "Allow",
        "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
        "Resource": format!("{group}:*"),
    })])
}

/// ARN of the provider of GitHub's tokens.
pub fn provider_arn(environment: &Environment) -> String {
    format!("arn:{}:iam::{}:oidc-provider/{GITHUB_ISSUER}", environment.partition(), environment.account)
}

/// A job of exactly this repository and this environment of GitHub may take the role.
pub fn github_trust(environment: &Environment, github: &GitHub, github_environment: &str) -> Value {
    let claim = |name: &str| format!("{GITHUB_ISSUER}:{name}");
    document(vec![json!({
        "Sid": "JobsOfOneEnvironment",
        "Effect": "Allow",
        "Principal": {"Federated": provider_arn(environment)},
        "Action": "sts:AssumeRoleWithWebIdentity",
        "Condition": {"StringEquals": {
            claim("aud"): GITHUB_AUDIENCE,
            claim("sub"): github.subject_of(github_environment),
        }},
    })])
}

/// What the pipeline's commands call. Whose credentials these are may be asked without a permission.
pub fn deploy_permissions(environment: &Environment) -> Value {
    let repository = |name: &str| environment.arn("ecr", &format!("repository/{name}"));
    let (training, inference) =
        (repository(&environment.training_repository), repository(&environment.inference_repository));
    let function = environment.arn("lambda", &format!("function:{}", environment.function));
    let mut statements = vec![
        json!({
            "Sid": "SignInToTheRegistry",
            "Effect": "Allow",
            "Action": "ecr:GetAuthorizationToken",
            "Resource": "*",
        }),
        json!({
            "Sid": "ReadImages",
            "Effect": "Allow",
            "Action": [
                "ecr:BatchCheckLayerAvailability",
                "ecr:BatchGetImage",
                "ecr:DescribeImageScanFindings",
                "ecr:DescribeImages",
                "ecr:DescribeRepositories",
                "ecr:GetDownloadUrlForLayer",
                "ecr:GetRepositoryPolicy",
            ],
            "Resource": [training, inference],
        }),
    ];
    // An environment that promotes another deploys what that one pushed, and cannot bring in anything else.
    if environment.promotes.is_none() {
        statements.push(json!({
            "Sid": "PushAndScanImages",
            "Effect": "Allow",
            "Action": [
                "ecr:CompleteLayerUpload",
                "ecr:InitiateLayerUpload",
                "ecr:PutImage",
                "ecr:StartImageScan",
                "ecr:UploadLayerPart",
            ],
            "Resource": [training, inference],
        }));
    }
    statements.extend([
        json!({
            "Sid": "LookAtTheBucket",
            "Effect": "Allow",
            "Action": [
                "s3:GetBucketPolicy",
                "s3:GetBucketPublicAccessBlock",
                "s3:GetEncryptionConfiguration",
                "s3:ListBucket",
            ],
            "Resource": environment.bucket_arn(),
        }),
        // Reading, too: a presigned link to the report can do what its signer can.
        json!({
            "Sid": "Publish",
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject"],
            "Resource": environment.published_objects(),
        }),
    ]);
    statements.extend(package_statements(environment));
    statements.extend([
        json!({
            "Sid": "KeepEvidence",
            "Effect": "Allow",
            "Action": "s3:PutObject",
            "Resource": environment.evidence_objects(),
        }),
        json!({
            "Sid": "DeployTheFunction",
            "Effect": "Allow",
            "Action": [
                "lambda:AddPermission",
                "lambda:CreateAlias",
                "lambda:CreateFunction",
                "lambda:CreateFunctionUrlConfig",
                "lambda:GetAlias",
                "lambda:GetFunctionConfiguration",
                "lambda:GetFunctionUrlConfig",
                "lambda:GetPolicy",
                "lambda:InvokeFunction",
                "lambda:ListVersionsByFunction",
                "lambda:PublishVersion",
                "lambda:RemovePermission",
                "lambda:UpdateAlias",
                "lambda:UpdateFunctionCode",
                "lambda:UpdateFunctionUrlConfig",
            ],
            "Resource": [function, format!("{function}:*")],
        }),
        json!({
            "Sid": "GiveTheFunctionItsRole",
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": environment.role_arn(),
            "Condition": {"StringEquals": {"iam:PassedToService": "lambda.amazonaws.com"}},
        }),
        read_metrics(),
    ]);
    document(statements)
}

/// Lambda fetches a zip package with the caller's permissions. Who builds them may add packages and replace none.
fn package_statements(environment: &Environment) -> Vec<Value> {
    let packages = environment.packages_arn();
    let mut statements = Vec::new();
    if environment.package == Package::Zip {
        statements.push(json!({
            "Sid": "ReadPackages",
            "Effect": "Allow",
            "Action": "s3:GetObject",
            "Resource": packages,
        }));
        if environment.promotes.is_none() {
            statements.push(json!({
                "Sid": "AddPackages",
                "Effect": "Allow",
                "Action": "s3:PutObject",
                "Resource": packages,
                "Condition": {"Null": {"s3:if-none-match": "false"}},
            }));
        }
    }
    statements
}

/// What monitoring calls, on the functions of all environments in the account: it may ask, and change nothing.
pub fn monitor_permissions<'a>(environments: impl Iterator<Item = &'a Environment>) -> Value {
    let functions = environments.flat_map(|environment| {
        let function = environment.arn("lambda", &format!("function:{}", environment.function));
        [format!("{function}:*"), function]
    });
    document(vec![
        json!({
            "Sid": "AskTheFunctions",
            "Effect": "Allow",
            "Action": ["lambda:GetAlias", "lambda:GetFunctionConfiguration", "lambda:InvokeFunction"],
            "Resource": functions.collect::<Vec<_>>(),
        }),
        read_metrics(),
    ])
}

/// Metrics have no ARNs.
fn read_metrics() -> Value {
    json!({
        "Sid": "ReadMetrics",
        "Effect": "Allow",
        "Action": "cloudwatch:GetMetricStatistics",
        "Resource": "*",
    })
}

/// Lambda may fetch the function's image, for functions of this account and region alone.
pub fn inference_repository_policy(environment: &Environment) -> Value {
    document(vec![json!({
        "Sid": "LambdaFetchesImages",
        "Effect": "Allow",
        "Principal": {"Service": "lambda.amazonaws.com"},
        "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
        "Condition": {"StringLike": {"aws:sourceArn": environment.arn("lambda", "function:*")}},
    })])
}

fn expire_untagged() -> Value {
    json!({
        "rulePriority": 1,
        "description": "Images without a tag",
        "selection": {
            "tagStatus": "untagged",
            "countType": "sinceImagePushed",
            "countUnit": "days",
            "countNumber": UNTAGGED_DAYS,
        },
        "action": {"type": "expire"},
    })
}

/// Which images of the function expire: none that has a tag. A rule by age or number cannot know which of them the alias and its
/// predecessor name, and a version whose image is gone cannot be rolled back to. Tags are immutable and every image is pushed
/// under its run's, so an image without one was never deployed.
pub fn inference_lifecycle() -> Value {
    json!({"rules": [expire_untagged()]})
}

/// Which training images expire: also old ones, which no function names.
pub fn training_lifecycle() -> Value {
    let old = json!({
        "rulePriority": 2,
        "description": "All but the newest",
        "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": TRAINING_IMAGES_KEPT},
        "action": {"type": "expire"},
    });
    json!({"rules": [expire_untagged(), old]})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config::{self, Config};
    use crate::digest;

    fn shipped() -> Config {
        let text = include_str!("../../../pipeline.toml").replace("000000000000", "123456789012");
        config::parse(&text.replace("owner/name", "team/models")).unwrap()
    }

    fn statements(policy: &Value) -> &Vec<Value> {
        policy["Statement"].as_array().unwrap()
    }

    #[test]
    fn the_deploy_role_trusts_one_environment_of_one_repository() {
        let config = shipped();
        let environment = config.environment("preprod").unwrap();
        let trust = github_trust(environment, config.github.as_ref().unwrap(), "preprod");
        let statement = &statements(&trust)[0];
        assert_eq!(
            statement["Condition"],
            json!({"StringEquals": {
                "token.actions.githubusercontent.com:aud": "sts.amazonaws.com",
                "token.actions.githubusercontent.com:sub": "repo:team/models:environment:preprod",
            }})
        );
        assert_eq!(
            statement["Principal"]["Federated"],
            "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"
        );
    }

    #[test]
    fn packages_are_read_by_who_deploys_them_and_added_by_who_builds_them() {
        let mut config = shipped();
        let sids = |config: &Config, name: &str| -> Vec<(String, String)> {
            let policy = deploy_permissions(config.environment(name).unwrap());
            let of_packages =
                |statement: &&Value| statement["Resource"].as_str().is_some_and(|arn| arn.contains("/packages/"));
            let words = |value: &Value| value.as_str().unwrap().to_string();
            let found = statements(&policy).iter().filter(of_packages);
            found.map(|statement| (words(&statement["Action"]), words(&statement["Resource"]))).collect()
        };
        assert!(sids(&config, "preprod").is_empty(), "an image needs none of it");
        for environment in config.environments.values_mut() {
            environment.package = Package::Zip;
        }
        let packages = "arn:aws:s3:::mlopswebapp-123456789012/packages/*".to_string();
        let read = ("s3:GetObject".to_string(), packages.clone());
        assert_eq!(sids(&config, "preprod"), [read.clone(), ("s3:PutObject".to_string(), packages)]);
        assert_eq!(sids(&config, "production"), [read]);
    }

    #[test]
    fn no_permission_is_wider_than_what_it_names() {
        let config = shipped();
        for name in ["local", "preprod", "production"] {
            let environment = config.environment(name).unwrap();
            let policies = [
                deploy_permissions(environment),
                execution_permissions(environment),
                monitor_permissions(config.environments.values()),
            ];
            for statement in policies.iter().flat_map(statements) {
                let actions = statement["Action"].to_string();
                assert!(!actions.contains('*'), "{actions}");
                let everywhere = statement["Resource"] == "*";
                let unnamed = ["SignInToTheRegistry", "ReadMetrics"].contains(&statement["Sid"].as_str().unwrap());
                assert_eq!(everywhere, unnamed, "{statement}");
            }
            // IAM's limit for the inline policies of a role.
            assert!(policies[0].to_string().len() < 10_240);
        }
    }

    #[test]
    fn evidence_can_be_kept_and_not_read() {
        let config = shipped();
        let policy = deploy_permissions(config.environment("production").unwrap());
        let evidence = "arn:aws:s3:::mlopswebapp-production-123456789012/evidence/*";
        let about: Vec<_> = statements(&policy)
            .iter()
            .filter(|statement| statement["Resource"].to_string().contains("evidence"))
            .map(|statement| (&statement["Action"], &statement["Resource"]))
            .collect();
        assert_eq!(about, [(&json!("s3:PutObject"), &json!(evidence))]);
    }

    #[test]
    fn an_environment_that_promotes_cannot_push() {
        let config = shipped();
        let push =
            |name: &str| deploy_permissions(config.environment(name).unwrap()).to_string().contains("ecr:PutImage");
        assert!(push("preprod") && !push("production"));
    }

    #[test]
    fn no_rule_expires_a_tagged_image_of_the_function() {
        for rule in inference_lifecycle()["rules"].as_array().unwrap() {
            assert_eq!(rule["selection"]["tagStatus"], "untagged", "{rule}");
        }
        let training = training_lifecycle();
        assert!(training["rules"].as_array().unwrap().iter().any(|rule| rule["selection"]["tagStatus"] == "any"));
    }

    /// The operations that the stages and what they use call, as IAM names them.
    fn called() -> BTreeSet<String> {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut called = BTreeSet::new();
        for path in digest::files_of_tree(&sources).unwrap() {
            let other = ["provision", "bench"].iter().any(|folder| path.starts_with(folder));
            if other || path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = std::fs::read_to_string(sources.join(&path)).unwrap();
            let code: String = text.split_whitespace().collect();
            for service in ["ecr", "lambda", "s3"] {
                for after in code.split(&format!(".{service}.")).skip(1) {
                    let end = after.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap();
                    if after[end..].starts_with("()") {
                        called.insert(action(service, &after[..end]));
                    }
                }
            }
            for after in code.split("&CLOUDWATCH,\"").skip(1) {
                called.insert(format!("cloudwatch:{}", after.split('"').next().unwrap()));
            }
        }
        called
    }

    fn action(service: &str, operation: &str) -> String {
        let words = operation.split('_').map(|word| word[..1].to_uppercase() + &word[1..]);
        match (service, words.collect::<String>().as_str()) {
            ("lambda", "Invoke") => "lambda:InvokeFunction".to_string(),
            ("s3", "HeadBucket" | "ListObjectsV2") => "s3:ListBucket".to_string(),
            ("s3", "GetBucketEncryption") => "s3:GetEncryptionConfiguration".to_string(),
            ("s3", "PutBucketEncryption") => "s3:PutEncryptionConfiguration".to_string(),
            ("s3", "GetPublicAccessBlock") => "s3:GetBucketPublicAccessBlock".to_string(),
            ("s3", "PutPublicAccessBlock") => "s3:PutBucketPublicAccessBlock".to_string(),
            (service, name) => format!("{service}:{name}"),
        }
    }

    #[test]
    fn the_deploy_role_may_do_what_the_stages_call_and_nothing_else() {
        // A stage does these only where nobody provisioned, which an administrator does on AWS.
        let by_administrators = [
            "ecr:CreateRepository",
            "s3:CreateBucket",
            "s3:PutBucketPolicy",
            "s3:PutBucketPublicAccessBlock",
            "s3:PutEncryptionConfiguration",
        ];
        // Calls of the registry's own protocol; what Lambda and presigned links do with the caller's permissions.
        let by_others = [
            "ecr:BatchCheckLayerAvailability",
            "ecr:BatchGetImage",
            "ecr:CompleteLayerUpload",
            "ecr:GetDownloadUrlForLayer",
            "ecr:GetRepositoryPolicy",
            "ecr:InitiateLayerUpload",
            "ecr:PutImage",
            "ecr:UploadLayerPart",
            "iam:PassRole",
            "s3:GetObject",
        ];
        let config = shipped();
        let policy = deploy_permissions(config.environment("preprod").unwrap());
        let mut allowed = BTreeSet::new();
        for statement in statements(&policy) {
            match &statement["Action"] {
                Value::Array(actions) => {
                    allowed.extend(actions.iter().map(|action| action.as_str().unwrap().to_string()))
                }
                action => allowed.extend(action.as_str().map(String::from)),
            }
        }
        let called = called();
        let missing: Vec<_> = called
            .iter()
            .filter(|action| !allowed.contains(*action) && !by_administrators.contains(&action.as_str()))
            .collect();
        assert!(missing.is_empty(), "called and not permitted: {missing:?}");
        let idle: Vec<_> = allowed
            .iter()
            .filter(|action| !called.contains(*action) && !by_others.contains(&action.as_str()))
            .collect();
        assert!(idle.is_empty(), "permitted and never called: {idle:?}");
    }
}
