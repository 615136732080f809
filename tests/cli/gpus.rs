//! `agent gpus`, with a stand-in for NVIDIA's library.

use std::path::PathBuf;

use crate::support::{TestContext, write};

/// Just enough of NVML for three devices: one partitioned, one that shares the machine's memory.
const LIBRARY: &str = r#"
#include <stdio.h>
#include <string.h>
typedef unsigned long long u64;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory;
typedef struct { unsigned gpu, memory; } rates;
static int device[3], instance[1];
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return "stand-in"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "550.54.14"); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12040; return 0; }
int nvmlSystemGetCudaDriverVersion(int *version) { *version = 12040; return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 3; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = &device[index]; return index < 3 ? 0 : 2; }
int nvmlDeviceGetName(void *handle, char *text, unsigned size) {
  snprintf(text, size, handle == instance ? "NVIDIA H100 MIG 1g.10gb" : handle == &device[2] ? "NVIDIA GB10" : "NVIDIA H100 80GB HBM3");
  return 0; }
int nvmlDeviceGetUUID(void *handle, char *text, unsigned size) {
  if (handle == instance) snprintf(text, size, "MIG-0-0");
  else snprintf(text, size, "GPU-%d", (int)((int *)handle - device));
  return 0; }
int nvmlDeviceGetMemoryInfo_v2(void *handle, memory *info) {
  if (handle == &device[2]) return 3;
  info->total = handle == instance ? 10ull << 30 : 80ull << 30;
  info->used = 1ull << 30; info->free = info->total - info->used; return 0; }
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) { *major = 9; *minor = 0; return 0; }
int nvmlDeviceGetUtilizationRates(void *handle, rates *rates) { if (handle == &device[1]) return 3; rates->gpu = 42; return 0; }
int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *later) {
  *now = *later = handle == &device[1]; return 0; }
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) { *count = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **inner) { *inner = instance; return index ? 6 : 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, void *infos) { *count = 0; return 0; }
"#;

/// Compiles the stand-in; its directory.
fn library(context: &TestContext, source: &str) -> PathBuf {
    let directory = context.path("nvml");
    fs_err::create_dir_all(&directory).unwrap();
    write(&directory.join("nvml.c"), source);
    let output = directory.join("libnvidia-ml.so.1");
    context.command("cc").args(["-shared", "-fPIC", "-o"]).arg(&output).arg(directory.join("nvml.c")).run().success();
    directory
}

#[test]
fn devices_of_the_library_are_listed() {
    let context = TestContext::new();
    let directory = library(&context, LIBRARY);
    let outcome = context.agent().arg("gpus").env("LD_LIBRARY_PATH", &directory).run().success();
    insta::assert_snapshot!(outcome.shown_stdout(), @r"
    driver 550.54.14, CUDA up to 12.4
    gpu  name                       memory      used  busy  compute  uuid
    0    NVIDIA H100 80GB HBM3    80.0 GiB  1.00 GiB  42 %  9.0      GPU-0
    1    NVIDIA H100 80GB HBM3    80.0 GiB  1.00 GiB        9.0      GPU-1
    1:0  NVIDIA H100 MIG 1g.10gb  10.0 GiB                           MIG-0-0
    2    NVIDIA GB10                                  42 %  9.0      GPU-2
    ");
    let json = context.agent().args(["gpus", "--json"]).env("LD_LIBRARY_PATH", &directory).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["driver"], "550.54.14");
    assert_eq!(json["devices"][0]["uuid"], "GPU-0");
    assert_eq!(json["devices"][2]["memory_total"], serde_json::Value::Null);
    assert_eq!(json["devices"][1]["instances"][0]["uuid"], "MIG-0-0");
}

#[test]
fn a_machine_without_a_driver_is_told_plainly() {
    let context = TestContext::new();
    // A library whose driver is not loaded, so that the test says the same on a machine that has GPUs.
    let source = "int nvmlInit_v2(void) { return 9; }\nint nvmlInitWithFlags(unsigned f) { return 9; }\n\
                  int nvmlShutdown(void) { return 0; }\n";
    let directory = library(&context, source);
    let outcome = context.agent().arg("gpus").env("LD_LIBRARY_PATH", &directory).run().success();
    insta::assert_snapshot!(outcome.shown_stdout(), @"no GPUs: NVIDIA's library is installed, its kernel driver is not loaded");
    let json = context.agent().args(["gpus", "--json"]).env("LD_LIBRARY_PATH", &directory).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["devices"], serde_json::json!([]));
}
