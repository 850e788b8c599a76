//! An authority of a test's own, and a server's certificate from it.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

/// Files in PEM, gone with it.
#[derive(Debug)]
pub struct Certificates {
    folder: TempDir,
}

impl Certificates {
    /// For servers at 127.0.0.1.
    ///
    /// # Errors
    /// They cannot be made or written.
    pub fn new() -> Result<Self> {
        let made = Self {
            folder: tempfile::tempdir()?,
        };
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let server = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &authority)?;
        fs::write(made.file("authority.pem"), authority.pem())?;
        fs::write(made.file("server.pem"), server.pem())?;
        fs::write(made.file("server.key"), key.serialize_pem())?;
        Ok(made)
    }

    pub fn authority(&self) -> PathBuf {
        self.file("authority.pem")
    }

    pub fn server(&self) -> PathBuf {
        self.file("server.pem")
    }

    pub fn key(&self) -> PathBuf {
        self.file("server.key")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
