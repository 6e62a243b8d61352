//! `cargo xtask image`: a static binary in an OCI archive, written without any container engine.
//!
//! The archive is a tar of an image layout (OCI image specification, "Image Layout"): one index, one
//! manifest, one configuration, one layer. Times and owners are zero, so the same binary always
//! gives the same digests.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use oci_spec::image::{
    ConfigBuilder, DescriptorBuilder, ImageConfigurationBuilder, ImageIndexBuilder, ImageManifestBuilder,
    MediaType, OciLayoutBuilder, PlatformBuilder, RootFsBuilder, Sha256Digest,
};
use sha2::{Digest, Sha256};

use crate::command::{Command, is_root, root};
use crate::{pgo, setup};

const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds the binary and writes the archive, `target/image/sluice.tar` unless told otherwise.
pub fn run(output: Option<PathBuf>, pgo: &pgo::Options) -> Result<()> {
    setup::run()?;
    Command::new("rustup").args(["target", "add", TARGET]).run()?;
    musl_gcc()?;
    pgo.cargo(&["build", "--package", "lb-userspace", "--bin", "sluice"], TARGET).run()?;
    let directory = root().join("target/image");
    fs::create_dir_all(&directory)?;
    let binary = root().join("target").join(TARGET).join("dist/sluice");
    let bytes = fs::read(&binary).with_context(|| format!("read {}", binary.display()))?;

    let output = output.unwrap_or_else(|| directory.join("sluice.tar"));
    let (archive, digest) = archive(&bytes, env!("CARGO_PKG_VERSION"))?;
    fs::write(&output, archive).with_context(|| format!("write {}", output.display()))?;
    println!("{}: sluice:{} sha256:{digest}", output.display(), env!("CARGO_PKG_VERSION"));
    Ok(())
}

/// aws-lc and mimalloc are C: they need a compiler that knows musl.
fn musl_gcc() -> Result<()> {
    if Command::new("musl-gcc").args(["--version"]).output().is_ok() {
        return Ok(());
    }
    if is_root() && Path::new("/usr/bin/apt-get").exists() {
        eprintln!("image: installing musl-tools, for musl-gcc");
        Command::new("apt-get").args(["update", "--quiet"]).run()?;
        return Command::new("apt-get").args(["install", "--yes", "--quiet", "musl-tools"]).run();
    }
    anyhow::bail!("musl-gcc is missing: install it (Debian and Ubuntu: `apt-get install musl-tools`)")
}

/// The archive's bytes and the digest of its manifest.
fn archive(binary: &[u8], version: &str) -> Result<(Vec<u8>, String)> {
    let mut blobs = Blobs::default();
    let layer = tar_of(&[("sluice", Some(binary))], 0o755)?;
    let diff_id = format!("sha256:{}", hex(&layer));
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    gzip.write_all(&layer)?;
    let layer = blobs.add(gzip.finish()?, MediaType::ImageLayerGzip)?;

    let config = ConfigBuilder::default().entrypoint(vec!["/sluice".to_owned()]).build()?;
    let root_fs = RootFsBuilder::default().typ("layers").diff_ids(vec![diff_id]).build()?;
    let configuration = ImageConfigurationBuilder::default()
        .architecture("amd64")
        .os("linux")
        .config(config)
        .rootfs(root_fs)
        .build()?;
    let configuration = blobs.add(serde_json::to_vec(&configuration)?, MediaType::ImageConfig)?;

    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(configuration.build()?)
        .layers(vec![layer.build()?])
        .build()?;
    let manifest_bytes = serde_json::to_vec(&manifest)?;
    let digest = hex(&manifest_bytes);
    let platform = PlatformBuilder::default().architecture("amd64").os("linux").build()?;
    let names = [
        ("org.opencontainers.image.ref.name", version.to_owned()),
        ("io.containerd.image.name", format!("sluice:{version}")),
    ];
    let manifest = blobs
        .add(manifest_bytes, MediaType::ImageManifest)?
        .platform(platform)
        .annotations(names.map(|(key, value)| (key.to_owned(), value)))
        .build()?;
    let index = ImageIndexBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![manifest])
        .build()?;
    let layout = OciLayoutBuilder::default().image_layout_version("1.0.0").build()?;

    let mut entries = vec![("oci-layout".to_owned(), Some(serde_json::to_vec(&layout)?))];
    entries.push(("index.json".to_owned(), Some(sorted_json(&index)?)));
    entries.push(("blobs/".to_owned(), None));
    entries.push(("blobs/sha256/".to_owned(), None));
    entries.extend(blobs.0.into_iter().map(|(name, bytes)| (format!("blobs/sha256/{name}"), Some(bytes))));
    let entries: Vec<_> = entries.iter().map(|(name, bytes)| (name.as_str(), bytes.as_deref())).collect();
    Ok((tar_of(&entries, 0o644)?, digest))
}

/// Annotations are a hash map; a [`serde_json::Value`] sorts its keys.
fn sorted_json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::to_value(value)?)?)
}

/// The blobs of a layout, by digest.
#[derive(Default)]
struct Blobs(Vec<(String, Vec<u8>)>);

impl Blobs {
    /// Adds one and gives its descriptor.
    fn add(&mut self, bytes: Vec<u8>, media_type: MediaType) -> Result<DescriptorBuilder> {
        let digest = hex(&bytes);
        let descriptor = DescriptorBuilder::default()
            .media_type(media_type)
            .digest(Sha256Digest::from_str(&digest)?)
            .size(bytes.len() as u64);
        self.0.push((digest, bytes));
        Ok(descriptor)
    }
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A tar of directories (without bytes) and files with `mode`, all of root and of the year 1970.
fn tar_of(entries: &[(&str, Option<&[u8]>)], mode: u32) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_ustar();
        let bytes = bytes.inspect(|_| header.set_mode(mode)).unwrap_or_else(|| {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o755);
            &[]
        });
        header.set_size(bytes.len() as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        tar.append_data(&mut header, name, bytes)?;
    }
    Ok(tar.into_inner()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;

    use flate2::read::GzDecoder;
    use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};

    use super::*;

    fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(tar).entries().expect("a tar") {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a path").display().to_string();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            files.insert(name, bytes);
        }
        files
    }

    /// Follows a descriptor as a runtime does: by digest, checking digest and size.
    fn blob(files: &BTreeMap<String, Vec<u8>>, descriptor: &Descriptor) -> Vec<u8> {
        let digest = descriptor.digest().to_string();
        let hexadecimal = digest.strip_prefix("sha256:").expect("a SHA-256");
        let bytes = &files[&format!("blobs/sha256/{hexadecimal}")];
        assert_eq!(hex(bytes), hexadecimal);
        assert_eq!(bytes.len() as u64, descriptor.size());
        bytes.clone()
    }

    #[test]
    fn the_archive_reads_back_from_index_to_binary() {
        let (archive_bytes, digest) = archive(b"not really an ELF", "1.2.3").expect("an archive");
        let files_in_it = files(&archive_bytes);
        let layout: serde_json::Value = serde_json::from_slice(&files_in_it["oci-layout"]).expect("JSON");
        assert_eq!(layout["imageLayoutVersion"], "1.0.0");
        let index = ImageIndex::from_reader(&*files_in_it["index.json"]).expect("an index");
        let [entry] = &index.manifests()[..] else { panic!("one manifest") };
        assert_eq!(entry.digest().to_string(), format!("sha256:{digest}"));
        let manifest = ImageManifest::from_reader(&*blob(&files_in_it, entry)).expect("a manifest");
        let configuration = blob(&files_in_it, manifest.config());
        let configuration = ImageConfiguration::from_reader(&*configuration).expect("a configuration");
        let [layer] = &manifest.layers()[..] else { panic!("one layer") };
        let mut unpacked = Vec::new();
        let packed = blob(&files_in_it, layer);
        GzDecoder::new(&*packed).read_to_end(&mut unpacked).expect("gzip");
        assert_eq!(configuration.rootfs().diff_ids(), &[format!("sha256:{}", hex(&unpacked))]);
        assert_eq!(files(&unpacked)["sluice"], b"not really an ELF");
        let entrypoint = configuration.config().as_ref().and_then(|c| c.entrypoint().clone());
        assert_eq!(entrypoint, Some(vec!["/sluice".to_owned()]));
    }

    #[test]
    fn the_same_binary_gives_the_same_archive() {
        let make = || archive(b"binary", "1.2.3").expect("an archive");
        assert_eq!(make(), make());
        assert_ne!(make().1, archive(b"another", "1.2.3").expect("an archive").1);
    }
}
