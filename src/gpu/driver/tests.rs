use super::*;

fn find(root: &Path, version: &str) -> Result<Driver, DriverError> {
    Driver::below(root, version)
}

#[test]
fn the_loaded_versions_files_are_found_with_the_names_programs_ask_for() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path().canonicalize().unwrap();
    let libraries = testing::install(&root);
    let driver = find(&root, "550.54.14").unwrap();
    let pair = |file: &str, name: &str| (libraries.join(file), name.to_owned());
    let expected = [
        pair("libcuda.so.550.54.14", "libcuda.so.1"),
        pair("libnvidia-ml.so.550.54.14", "libnvidia-ml.so.1"),
        pair("libnvidia-nvvm.so.550.54.14", "libnvidia-nvvm.so.4"),
    ];
    assert_eq!(driver.libraries, expected);
    assert_eq!(driver.programs, [("nvidia-smi", root.join("usr/bin/nvidia-smi"))]);
    // Another version's file is found where it is the one that is loaded.
    assert!(find(&root, "535.1").unwrap().libraries.contains(&pair("libcuda.so.535.1", "libcuda.so.1")));
}

#[test]
fn a_driver_without_its_main_library_or_nodes_is_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let libraries = testing::install(root.path());
    let driver = find(root.path(), "550.54.14").unwrap();
    let control: Vec<&str> = driver.control_nodes().unwrap().iter().map(|it| it.0).collect();
    assert!(control.starts_with(&["nvidiactl", "nvidia-uvm"]), "{control:?}");
    let missing = driver.node("nvidia-absent").unwrap_err().to_string();
    assert_eq!(missing, "the device node `/dev/nvidia-absent` is missing");
    for name in ["libcuda.so.1", "libcuda.so.550.54.14", "libcuda.so.535.1"] {
        fs::remove_file(libraries.join(name)).unwrap();
    }
    let error = find(root.path(), "550.54.14").unwrap_err().to_string();
    assert!(error.starts_with("the driver's library `libcuda.so.1` is in none of /"), "{error}");
}

#[test]
fn what_was_loaded_is_looked_for_first() {
    let found = directories(Path::new("/run/nvidia/driver"));
    assert_eq!(found[0], Path::new("/run/nvidia/driver/usr/lib/x86_64-linux-gnu"));
    assert!(directories(Path::new("/")).contains(&PathBuf::from("/usr/lib64")));
}
