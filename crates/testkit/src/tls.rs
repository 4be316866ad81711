//! A door with a lock in front of a server that has none: clients come encrypted, the server behind hears plain text.
//!
//! So each test chooses what the certificate says, without a server of its own kind of configuration.

use std::{io, net::SocketAddr, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// How a client asks for encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Greeting {
    /// It is encrypted from the first byte, as with Redis.
    None,
    /// It asks first, as PostgreSQL's `SSLRequest` does, and gets a yes.
    Postgres,
}

/// Encrypted, on a free port of this machine; clients that come unencrypted are turned away. Gone when dropped.
#[derive(Debug)]
pub struct TlsDoor {
    address: SocketAddr,
    folder: TempDir,
    door: tokio::task::JoinHandle<()>,
}

impl TlsDoor {
    /// Opens a door to `server` whose certificate says `name`, signed by an authority of its own.
    pub async fn open(server: SocketAddr, name: &str, greeting: Greeting) -> io::Result<Self> {
        let (authority, acceptor) = certificates(name).map_err(io::Error::other)?;
        let folder = tempfile::Builder::new().prefix("fieldtrack-tls-").tempdir()?;
        std::fs::write(folder.path().join("authority.pem"), authority)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let door = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                // A client that is turned away learns it by the end of the connection.
                tokio::spawn(async move { let_in(client, server, greeting, &acceptor).await });
            }
        });
        Ok(Self { address, folder, door })
    }

    /// Where it is.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The certificate of the authority, as a PEM file.
    #[must_use]
    pub fn authority(&self) -> std::path::PathBuf {
        Path::join(self.folder.path(), "authority.pem")
    }
}

impl Drop for TlsDoor {
    fn drop(&mut self) {
        self.door.abort();
    }
}

async fn let_in(
    mut client: TcpStream,
    server: SocketAddr,
    greeting: Greeting,
    acceptor: &TlsAcceptor,
) -> io::Result<()> {
    if greeting == Greeting::Postgres {
        // Its length and the number of an SSLRequest; anything else is a client that does not want encryption.
        let mut request = [0; 8];
        client.read_exact(&mut request).await?;
        if request != [0, 0, 0, 8, 4, 210, 22, 47] {
            return Ok(());
        }
        client.write_all(b"S").await?;
    }
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(server).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

fn certificates(name: &str) -> Result<(String, TlsAcceptor), Box<dyn std::error::Error + Send + Sync>> {
    let mut params = CertificateParams::new(Vec::default())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?.pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &issuer)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from(certificate)],
            PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
        )?;
    Ok((authority, TlsAcceptor::from(Arc::new(config))))
}
