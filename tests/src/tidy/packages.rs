//! What `cargo metadata` tells: the workspace's packages, and all packages that a build takes in.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The answer of `cargo metadata`, as far as the rules look at it.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Metadata {
    pub packages: Vec<Package>,
    #[serde(default)]
    pub workspace_members: Vec<String>,
    #[serde(default)]
    pub resolve: Option<Resolve>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Package {
    pub id: String,
    pub name: String,
    pub version: String,
    #[serde(default)]
    pub license: Option<String>,
    /// Where it comes from; nothing for a folder of this repository.
    #[serde(default)]
    pub source: Option<String>,
    pub manifest_path: String,
    #[serde(default)]
    pub dependencies: Vec<Dependency>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Dependency {
    pub name: String,
    /// Nothing for a normal one, else `dev` or `build`.
    #[serde(default)]
    pub kind: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Resolve {
    pub nodes: Vec<Node>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Node {
    pub id: String,
}

impl Metadata {
    /// The workspace's packages alone, without looking at what they need.
    pub fn of_workspace(root: &Path) -> Result<Self> {
        Self::ask(root, &["--no-deps"])
    }

    /// Everything that a build for the platform which we ship takes in, exactly as `Cargo.lock` says.
    pub fn of_everything(root: &Path) -> Result<Self> {
        Self::ask(
            root,
            &["--locked", "--filter-platform", "x86_64-unknown-linux-gnu"],
        )
    }

    fn ask(root: &Path, arguments: &[&str]) -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1"])
            .args(arguments)
            .current_dir(root)
            .output()
            .context("cargo metadata could not be started")?;
        if !output.status.success() {
            bail!(
                "cargo metadata {arguments:?} failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        serde_json::from_slice(&output.stdout).context("cargo metadata answered what is not its format 1")
    }

    /// The packages that the resolved graph really holds.
    pub fn resolved(&self) -> Vec<&Package> {
        let Some(resolve) = &self.resolve else {
            return self.packages.iter().collect();
        };
        let ids: std::collections::HashSet<&str> =
            resolve.nodes.iter().map(|node| node.id.as_str()).collect();
        self.packages
            .iter()
            .filter(|package| ids.contains(package.id.as_str()))
            .collect()
    }
}

impl Package {
    /// The folder's name in the repository, such as `common`.
    pub fn folder(&self) -> &str {
        self.manifest_path.rsplit('/').nth(1).unwrap_or_default()
    }
}
