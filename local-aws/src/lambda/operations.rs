//! The names of Lambda's operations by method and path: those that are implemented, and those that are refused by name.

use http::Method;

/// Method, API version, whether the path goes on with a function's name, its part, and an item of that.
const IMPLEMENTED: &[(&str, &str, bool, &str, bool, &str)] = &[
    ("POST", "2015-03-31", false, "", false, "CreateFunction"),
    ("GET", "2015-03-31", false, "", false, "ListFunctions"),
    ("GET", "2015-03-31", true, "", false, "GetFunction"),
    ("DELETE", "2015-03-31", true, "", false, "DeleteFunction"),
    ("GET", "2015-03-31", true, "configuration", false, "GetFunctionConfiguration"),
    ("PUT", "2015-03-31", true, "configuration", false, "UpdateFunctionConfiguration"),
    ("PUT", "2015-03-31", true, "code", false, "UpdateFunctionCode"),
    ("POST", "2015-03-31", true, "versions", false, "PublishVersion"),
    ("GET", "2015-03-31", true, "versions", false, "ListVersionsByFunction"),
    ("POST", "2015-03-31", true, "aliases", false, "CreateAlias"),
    ("GET", "2015-03-31", true, "aliases", false, "ListAliases"),
    ("GET", "2015-03-31", true, "aliases", true, "GetAlias"),
    ("PUT", "2015-03-31", true, "aliases", true, "UpdateAlias"),
    ("DELETE", "2015-03-31", true, "aliases", true, "DeleteAlias"),
    ("POST", "2015-03-31", true, "policy", false, "AddPermission"),
    ("GET", "2015-03-31", true, "policy", false, "GetPolicy"),
    ("DELETE", "2015-03-31", true, "policy", true, "RemovePermission"),
    ("POST", "2015-03-31", true, "invocations", false, "Invoke"),
    ("POST", "2021-10-31", true, "url", false, "CreateFunctionUrlConfig"),
    ("GET", "2021-10-31", true, "url", false, "GetFunctionUrlConfig"),
    ("PUT", "2021-10-31", true, "url", false, "UpdateFunctionUrlConfig"),
    ("DELETE", "2021-10-31", true, "url", false, "DeleteFunctionUrlConfig"),
    ("GET", "2021-10-31", true, "urls", false, "ListFunctionUrlConfigs"),
];

/// The implemented operation of a path below `functions`.
pub fn find(method: &Method, date: &str, named: bool, part: &str, item: bool) -> Option<&'static str> {
    let wanted = (method.as_str(), date, named, part, item);
    IMPLEMENTED.iter().find(|row| (row.0, row.1, row.2, row.3, row.4) == wanted).map(|row| row.5)
}

/// Method, path without its API version (`*` stands for any segment), operation.
const REFUSED: &[(&str, &str, &str)] = &[
    ("GET", "account-settings", "GetAccountSettings"),
    ("POST", "code-signing-configs", "CreateCodeSigningConfig"),
    ("GET", "code-signing-configs", "ListCodeSigningConfigs"),
    ("GET", "code-signing-configs/*", "GetCodeSigningConfig"),
    ("POST", "event-source-mappings", "CreateEventSourceMapping"),
    ("GET", "event-source-mappings", "ListEventSourceMappings"),
    ("GET", "event-source-mappings/*", "GetEventSourceMapping"),
    ("PUT", "event-source-mappings/*", "UpdateEventSourceMapping"),
    ("DELETE", "event-source-mappings/*", "DeleteEventSourceMapping"),
    ("PUT", "functions/*/code-signing-config", "PutFunctionCodeSigningConfig"),
    ("GET", "functions/*/code-signing-config", "GetFunctionCodeSigningConfig"),
    ("DELETE", "functions/*/code-signing-config", "DeleteFunctionCodeSigningConfig"),
    ("PUT", "functions/*/concurrency", "PutFunctionConcurrency"),
    ("GET", "functions/*/concurrency", "GetFunctionConcurrency"),
    ("DELETE", "functions/*/concurrency", "DeleteFunctionConcurrency"),
    ("PUT", "functions/*/event-invoke-config", "PutFunctionEventInvokeConfig"),
    ("POST", "functions/*/event-invoke-config", "UpdateFunctionEventInvokeConfig"),
    ("GET", "functions/*/event-invoke-config", "GetFunctionEventInvokeConfig"),
    ("DELETE", "functions/*/event-invoke-config", "DeleteFunctionEventInvokeConfig"),
    ("GET", "functions/*/event-invoke-config/list", "ListFunctionEventInvokeConfigs"),
    ("POST", "functions/*/invoke-async", "InvokeAsync"),
    ("PUT", "functions/*/provisioned-concurrency", "PutProvisionedConcurrencyConfig"),
    ("GET", "functions/*/provisioned-concurrency", "GetProvisionedConcurrencyConfig"),
    ("DELETE", "functions/*/provisioned-concurrency", "DeleteProvisionedConcurrencyConfig"),
    ("PUT", "functions/*/recursion-config", "PutFunctionRecursionConfig"),
    ("GET", "functions/*/recursion-config", "GetFunctionRecursionConfig"),
    ("POST", "functions/*/response-streaming-invocations", "InvokeWithResponseStream"),
    ("PUT", "functions/*/runtime-management-config", "PutRuntimeManagementConfig"),
    ("GET", "functions/*/runtime-management-config", "GetRuntimeManagementConfig"),
    ("GET", "layers", "ListLayers"),
    ("GET", "layers/*/versions", "ListLayerVersions"),
    ("POST", "layers/*/versions", "PublishLayerVersion"),
    ("GET", "layers/*/versions/*", "GetLayerVersion"),
    ("DELETE", "layers/*/versions/*", "DeleteLayerVersion"),
    ("GET", "tags/*", "ListTags"),
    ("POST", "tags/*", "TagResource"),
    ("DELETE", "tags/*", "UntagResource"),
];

/// The name of an operation that is refused; its method and path when it is not even known.
pub fn name(method: &Method, segments: &[&str]) -> String {
    let known = REFUSED.iter().find(|(known, pattern, _)| {
        let pattern: Vec<&str> = pattern.split('/').collect();
        let path = segments.get(1..).unwrap_or_default();
        method.as_str() == *known
            && pattern.len() == path.len()
            && pattern.iter().zip(path).all(|(pattern, segment)| *pattern == "*" || pattern == segment)
    });
    known.map_or_else(|| format!("{method} /{}", segments.join("/")), |(_, _, name)| (*name).to_owned())
}
