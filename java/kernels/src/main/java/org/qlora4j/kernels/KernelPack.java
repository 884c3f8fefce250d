// Copyright 2026 The qlora4j authors. SPDX-License-Identifier: Apache-2.0
package org.qlora4j.kernels;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Predicate;
import org.bytedeco.javacpp.BytePointer;
import org.bytedeco.javacpp.Pointer;
import org.jspecify.annotations.Nullable;
import org.qlora4j.kernels.abi.q4j_context;
import org.qlora4j.kernels.abi.q4j_context_options;
import org.qlora4j.kernels.abi.qlora4j;

/**
 * An opened kernel pack with one context: a device, its stream, its threads and its memory.
 *
 * <p>Calls from several threads are serialised; work is ordered as it was called. Close every
 * {@link DeviceBuffer} before the pack.
 *
 * <p>Selection: {@link PackOptions#pack}, else the system property {@code qlora4j.pack}, names a
 * shipped pack or the path of a shared library. Such an explicit choice is honoured or {@link
 * #open} fails. Without one, the packs are tried from the fastest (cuda, then the CPU packs by
 * instruction set) to the plain reference; {@link #selection} says in one line why faster ones were
 * not taken. A pack that lacks operators of a training step is taken by name only. {@link
 * PackOptions#kind} limits either choice to packs on the CPU or on a GPU. {@link
 * PackOptions#basePack}, else {@code qlora4j.basePack}, names the pack that serves operators the
 * first leaves out. {@code qlora4j.packDirectory} names a directory to take shipped packs from
 * instead of the class path.
 */
public final class KernelPack implements AutoCloseable {
  /**
   * Size of the host buffer through which Java arrays travel: large enough that the copies' fixed
   * cost vanishes.
   */
  static final int STAGING_BYTES = 1 << 20;

  /** Growth step of the workspace; spares reallocations while batches of similar size come in. */
  private static final long WORKSPACE_STEP = 1 << 16;

  /** Where all memory of a dry run seems to be: aligned, and never mapped. */
  private static final long DRY_RUN_ADDRESS = 4096;

  private static final System.Logger LOG = System.getLogger("org.qlora4j.kernels");

  /** The operators of a training step on a model in 4 bits. */
  public static final List<String> TRAINING_STEP =
      List.of(
          "quantize_4bit",
          "linear_forward",
          "linear_backward_input",
          "lora_weight_gradient",
          "linear_weight_gradient",
          "rms_norm_forward",
          "rms_norm_backward",
          "layer_norm_forward",
          "layer_norm_backward",
          "rotary",
          "activation_forward",
          "activation_backward",
          "attention_forward",
          "attention_backward",
          "cross_entropy",
          "gradient_norm",
          "adamw");

  private final Object lock = new Object();
  private final q4j_context context;
  private String selection = "";
  private final Frame frame;
  private final String name;
  private final String buildInfo;
  private final DeviceKind deviceKind;
  private final int device;
  private final boolean dryRun;
  private final int threads;
  private final DeviceAddress devicePointer = new DeviceAddress(0);
  private final LeakAlarm.Watch alarm;
  private @Nullable ByteBuffer staging;
  private @Nullable DeviceBuffer workspace;

  /** Of a dry run: the most that one call of each operator asked for. */
  private final Map<String, Long> scratchAsked = new HashMap<>();

  /** Handles of the paged stores that are open; not the objects, so that a lost one is noticed. */
  private final Set<Long> pagedStores = new LinkedHashSet<>();

  private long allocatedBytes;
  private long peakAllocatedBytes;
  private volatile boolean closed;

  /**
   * What a caller demands of a pack that it did not name: {@link #refusal} says in a few words what
   * stands against the pack, or gives null.
   */
  @FunctionalInterface
  public interface Demand {
    /** Why the pack is not taken, or null. */
    @Nullable String refusal(KernelPack pack);
  }

  private KernelPack(q4j_context context, int device, boolean dryRun) {
    this.context = context;
    this.device = device;
    this.dryRun = dryRun;
    this.frame = new Frame();
    this.name = text(qlora4j.q4j_pack_name(context));
    this.buildInfo = text(qlora4j.q4j_pack_build_info(context));
    this.deviceKind = DeviceKind.of(qlora4j.q4j_pack_device_kind(context));
    this.threads = qlora4j.q4j_context_threads(context);
    this.alarm = LeakAlarm.watch(this, "the KernelPack " + name);
  }

  /**
   * Why the automatic choice passed over packs that come before this one, in one line; empty when
   * it passed over none, or the pack was chosen by name.
   */
  public String selection() {
    return selection;
  }

  /**
   * What computes, for a user, in one line; with {@link #selection} where there is something to
   * say.
   */
  public String description() {
    return "kernel pack "
        + name
        + (deviceKind == DeviceKind.CPU
            ? ", " + threads + (threads == 1 ? " thread" : " threads")
            : ", device " + device)
        + (selection.isEmpty() ? "" : " (" + selection + ")");
  }

  /** Opens what the system properties ask for, or the best pack of this machine. */
  public static KernelPack openAutomatic() {
    return open(PackOptions.defaults());
  }

  /**
   * Opens a pack.
   *
   * @throws IllegalArgumentException when an explicit choice names no pack, or a library that is
   *     none or has another ABI version
   * @throws UnsupportedOperationException when this machine lacks the device or the instructions of
   *     an explicit choice, or no pack at all can be opened
   */
  public static KernelPack open(PackOptions options) {
    return open(options, pack -> pack.lacks(TRAINING_STEP));
  }

  /**
   * As {@link #open(PackOptions)}; the automatic choice takes the first pack that meets {@code
   * demand}, an explicit choice need not.
   */
  public static KernelPack open(PackOptions options, Demand demand) {
    if (qlora4j.q4j_abi_version() != qlora4j.Q4J_ABI_VERSION) {
      throw new IllegalStateException(
          "the loader library has kernel ABI version "
              + qlora4j.q4j_abi_version()
              + ", this jar was built for version "
              + qlora4j.Q4J_ABI_VERSION
              + "; use libraries and jars of one build");
    }
    String choice = choice(options.pack(), "qlora4j.pack");
    String baseChoice = choice(options.basePack(), "qlora4j.basePack");
    Path base = baseChoice == null ? null : resolve(baseChoice, "base pack");
    if (choice == null) {
      return openBest(base, options, demand);
    }
    KernelPack pack = create(resolve(choice, "pack"), base, options);
    if (options.kind() != null && options.kind() != pack.deviceKind) {
      String found =
          "the pack "
              + choice
              + " computes on the device "
              + pack.deviceKind
              + ", but "
              + options.kind()
              + " was asked for";
      pack.close();
      throw new IllegalArgumentException(found);
    }
    return pack;
  }

  /** Build information of the loader library: {@code revision=<git> compiler=<...>}. */
  public static String loaderBuildInfo() {
    return text(qlora4j.q4j_loader_build_info());
  }

  /**
   * Names of the packs that were shipped with this build, whether or not this machine can run them,
   * fastest first.
   */
  public static List<String> shipped() {
    List<String> names = new ArrayList<>();
    for (PackLocator.Shipped candidate : PackLocator.AUTOMATIC) {
      if (PackLocator.find(candidate.name()) != null) {
        names.add(candidate.name());
      }
    }
    return List.copyOf(names);
  }

  private static @Nullable String choice(@Nullable String option, String property) {
    String value = option == null ? System.getProperty(property, "") : option;
    return value.isEmpty() ? null : value;
  }

  private static Path resolve(String choice, String role) {
    if (PackLocator.isPath(choice)) {
      Path file = Path.of(choice).toAbsolutePath();
      if (!Files.isRegularFile(file)) {
        throw new IllegalArgumentException("the " + role + " " + file + " does not exist");
      }
      return file;
    }
    Path file = PackLocator.find(choice);
    if (file == null) {
      throw new IllegalArgumentException(
          "there is no "
              + role
              + " named "
              + choice
              + " in "
              + PackLocator.where()
              + "; found "
              + shipped()
              + ". Give one of these names or the path of a shared library");
    }
    return file;
  }

  private static KernelPack openBest(@Nullable Path base, PackOptions options, Demand demand) {
    List<String> reasons = new ArrayList<>();
    for (PackLocator.Shipped shipped : PackLocator.AUTOMATIC) {
      if (options.kind() != null && options.kind() != shipped.kind()) {
        continue;
      }
      String candidate = shipped.name();
      Path file = PackLocator.find(candidate);
      if (file == null) {
        reasons.add(candidate + ": not shipped in this build");
        continue;
      }
      try {
        KernelPack pack = create(file, base, options);
        String refusal = refusal(demand, pack);
        if (refusal != null) {
          pack.close();
          reasons.add(candidate + ": " + refusal);
          continue;
        }
        pack.selection = reasons.isEmpty() ? "" : String.join("; ", reasons);
        LOG.log(System.Logger.Level.DEBUG, "kernel pack " + pack.name() + ": " + pack.selection);
        return pack;
      } catch (UnsupportedOperationException | IllegalArgumentException | DeviceException e) {
        // Where nothing is left to take instead, the reason is all there is.
        reasons.add(
            candidate
                + ": "
                + (options.kind() == DeviceKind.CUDA ? e.getMessage() : brief(e.getMessage())));
      }
    }
    throw new UnsupportedOperationException(
        "no kernel pack can be opened from "
            + PackLocator.where()
            + (options.kind() == null ? "" : " for the device " + options.kind())
            + ": "
            + String.join("; ", reasons));
  }

  private static @Nullable String refusal(Demand demand, KernelPack pack) {
    try {
      return demand.refusal(pack);
    } catch (RuntimeException e) {
      pack.close();
      throw e;
    }
  }

  /**
   * A reason without the numbers and places that only a developer wants; opening by name gives
   * them.
   */
  private static String brief(@Nullable String message) {
    return message == null ? "not opened" : message.split("[(,;]", 2)[0].strip();
  }

  private static KernelPack create(Path library, @Nullable Path base, PackOptions options) {
    q4j_context context = new q4j_context();
    try (q4j_context_options nativeOptions = new q4j_context_options();
        BytePointer libraryPath = new BytePointer(library.toString(), StandardCharsets.UTF_8);
        BytePointer basePath =
            base == null ? null : new BytePointer(base.toString(), StandardCharsets.UTF_8)) {
      nativeOptions
          .size(Pointer.sizeof(q4j_context_options.class))
          .device(options.device())
          .threads(options.threads())
          .reserved(0)
          .stream(options.stream() == null ? DeviceAddress.NULL : options.stream());
      Status.check(qlora4j.q4j_context_create(libraryPath, basePath, nativeOptions, context));
    }
    KernelPack pack = new KernelPack(context, options.device(), options.dryRun());
    if (pack.deviceKind == DeviceKind.CPU && options.device() != 0) {
      String found =
          pack.name + " has the CPU alone, which is device 0; found device " + options.device();
      pack.close();
      throw new IllegalArgumentException(found);
    }
    return pack;
  }

  private static String text(@Nullable BytePointer pointer) {
    return pointer == null || pointer.isNull() ? "" : pointer.getString(StandardCharsets.UTF_8);
  }

  /** The pack's name, for example {@code cpu-avx512}. */
  public String name() {
    return name;
  }

  /** {@code revision=<git> compiler=<...> architectures=<...>} of the pack. */
  public String buildInfo() {
    return buildInfo;
  }

  /** Where the pack computes. */
  public DeviceKind deviceKind() {
    return deviceKind;
  }

  /**
   * Whether this pack only counts: an allocation is added to {@link #allocatedBytes} and gets no
   * memory, an operator checks its arguments, asks for its workspace and does not run, copies and
   * fills do nothing, and reading gives zeros. So the code that trains tells what it would hold,
   * for any size of model, in a moment. Nothing but such a pack may touch the addresses.
   */
  public boolean isDryRun() {
    return dryRun;
  }

  /** Number of the device; 0 on the CPU. */
  public int device() {
    return device;
  }

  /** CPU threads the context uses. */
  public int threads() {
    return threads;
  }

  /** A {@link Demand} for operators: names the first that is missing, or gives null. */
  public @Nullable String lacks(Collection<String> operators) {
    for (String operator : operators) {
      if (!supports(operator)) {
        return "has no " + operator + ", to be used only by name";
      }
    }
    return null;
  }

  /**
   * Whether the pack, or its base pack, has an operator.
   *
   * @param operator name as in the ABI, for example {@code rms_norm_forward}
   */
  public boolean supports(String operator) {
    synchronized (lock) {
      return qlora4j.q4j_supports(context(), operator) != 0;
    }
  }

  /** Waits until everything that was called so far is done. */
  public void synchronize() {
    synchronized (lock) {
      Status.check(qlora4j.q4j_synchronize(context()));
    }
  }

  /**
   * The scratch memory of this pack, at least {@code bytes} large. Every operator call uses it, so
   * what a caller puts there is gone with the next call, and a later, larger request closes the
   * buffer returned here.
   */
  public DeviceBuffer workspace(long bytes) {
    synchronized (lock) {
      DeviceBuffer current = workspace;
      if (current != null && current.bytes() >= bytes) {
        return current;
      }
      if (current != null) {
        // The old memory may still be read by work in flight.
        synchronize();
        workspace = null;
        current.close();
      }
      long size = workspaceSteps(bytes);
      DeviceBuffer next = DeviceBuffer.allocate(this, size);
      workspace = next;
      return next;
    }
  }

  /** Gives the workspace's memory back; the next call makes it anew, as large as it needs. */
  public void releaseWorkspace() {
    synchronized (lock) {
      scratchAsked.clear();
      DeviceBuffer current = workspace;
      if (current != null) {
        synchronize();
        workspace = null;
        current.close();
      }
    }
  }

  /** Bytes of {@link #workspace} as it is now: the most that a call has asked for. */
  public long workspaceBytes() {
    synchronized (lock) {
      return workspace == null ? 0 : workspace.bytes();
    }
  }

  /**
   * Of a dry run: bytes of the workspace as it would be for the calls of some operators alone,
   * since the last {@link #releaseWorkspace}.
   *
   * @param operators names as in the ABI, for example {@code attention_forward}
   */
  public long workspaceBytes(Predicate<String> operators) {
    synchronized (lock) {
      long most = 0;
      for (Map.Entry<String, Long> asked : scratchAsked.entrySet()) {
        if (operators.test(asked.getKey())) {
          most = Math.max(most, asked.getValue());
        }
      }
      return most == 0 ? 0 : workspaceSteps(most);
    }
  }

  private static long workspaceSteps(long bytes) {
    return Math.max(1, (bytes + WORKSPACE_STEP - 1) / WORKSPACE_STEP) * WORKSPACE_STEP;
  }

  /**
   * Device memory allocated through this pack and not freed, in bytes, the workspace and the frames
   * of paged stores included.
   */
  public long allocatedBytes() {
    synchronized (lock) {
      return allocatedBytes;
    }
  }

  /**
   * Largest value of {@link #allocatedBytes} since the pack was opened or {@link #resetPeak} was
   * called.
   */
  public long peakAllocatedBytes() {
    synchronized (lock) {
      return peakAllocatedBytes;
    }
  }

  /** Lets {@link #peakAllocatedBytes} start again from what is allocated now. */
  public void resetPeak() {
    synchronized (lock) {
      peakAllocatedBytes = allocatedBytes;
    }
  }

  /**
   * Starts counting, from zero, the calls of every operator and the time the pack takes for them,
   * or stops it. What a caller's clock shows beyond that sum is Java, JNI and the loader. On a GPU
   * the time is that of putting the work on the stream.
   */
  public void profile(boolean on) {
    synchronized (lock) {
      Status.check(qlora4j.q4j_profile(context(), on ? 1 : 0));
    }
  }

  /**
   * What was counted since {@link #profile}: the operators that were called, in the ABI's order.
   */
  public List<OperatorTime> operatorTimes() {
    List<OperatorTime> times = new ArrayList<>();
    long[] calls = new long[1];
    long[] nanoseconds = new long[1];
    synchronized (lock) {
      for (int i = 0; ; i++) {
        String operator = text(qlora4j.q4j_operator_name(i));
        if (operator.isEmpty()) {
          return times;
        }
        Status.check(qlora4j.q4j_profile_read(context(), i, calls, nanoseconds));
        if (calls[0] > 0) {
          times.add(new OperatorTime(operator, calls[0], nanoseconds[0]));
        }
      }
    }
  }

  /** Guards the context, the frame, the staging buffer and the workspace. */
  Object lock() {
    return lock;
  }

  /** The context, after checking that it is still open. */
  q4j_context context() {
    requireOpen();
    return context;
  }

  /** The parameter structs. Hold {@link #lock}. */
  Frame frame() {
    requireOpen();
    return frame;
  }

  /** A direct, little-endian buffer of {@link #STAGING_BYTES}. Hold {@link #lock}. */
  ByteBuffer staging() {
    ByteBuffer current = staging;
    if (current == null) {
      current = ByteBuffer.allocateDirect(STAGING_BYTES).order(ByteOrder.LITTLE_ENDIAN);
      staging = current;
    }
    return current.clear();
  }

  /**
   * A tensor's address for a call of this pack, the null pointer for none.
   *
   * @throws IllegalArgumentException when the tensor lies on a device this pack cannot reach
   */
  DeviceAddress address(@Nullable DeviceTensor tensor) {
    if (tensor == null) {
      return DeviceAddress.NULL;
    }
    KernelPack owner = tensor.buffer().pack();
    // Two CPU packs share the host's memory.
    if (owner != this && (owner.deviceKind != DeviceKind.CPU || deviceKind != DeviceKind.CPU)) {
      throw new IllegalArgumentException(
          "a tensor of the pack " + owner.name + " was given to the pack " + name + ": " + tensor);
    }
    return new DeviceAddress(tensor.address());
  }

  /** Address of scratch memory for a call; none for 0 bytes. Hold {@link #lock}. */
  DeviceAddress scratch(String operator, long bytes) {
    if (dryRun) {
      scratchAsked.merge(operator, bytes, Math::max);
    }
    return bytes == 0 ? DeviceAddress.NULL : new DeviceAddress(workspace(bytes).address());
  }

  void requireOpen() {
    if (closed) {
      throw new IllegalStateException("the kernel pack " + name + " was closed");
    }
  }

  long allocateMemory(long bytes) {
    synchronized (lock) {
      devicePointer.setAddress(dryRun ? DRY_RUN_ADDRESS : 0);
      if (!dryRun) {
        Status.check(qlora4j.q4j_allocate(context(), bytes, devicePointer));
      }
      allocatedBytes += bytes;
      peakAllocatedBytes = Math.max(peakAllocatedBytes, allocatedBytes);
      return devicePointer.address();
    }
  }

  void freeMemory(long address, long bytes) {
    synchronized (lock) {
      if (closed) {
        return;
      }
      allocatedBytes -= bytes;
      if (!dryRun) {
        devicePointer.setAddress(address);
        Status.check(qlora4j.q4j_free(context, devicePointer));
      }
    }
  }

  /** A paged store was made, with this much device memory. Hold {@link #lock}. */
  void adopt(long pagedStore, long bytes) {
    pagedStores.add(pagedStore);
    allocatedBytes += bytes;
    peakAllocatedBytes = Math.max(peakAllocatedBytes, allocatedBytes);
  }

  /** Frees a paged store, unless closing the pack has done so. Hold {@link #lock}. */
  void abandon(long pagedStore, long bytes) {
    if (pagedStores.remove(pagedStore)) {
      allocatedBytes -= bytes;
      destroyStore(pagedStore);
    }
  }

  private void destroyStore(long pagedStore) {
    Status.check(
        qlora4j.q4j_paged_store_destroy(
            context, frame.pagedStoreDestroy.reserved(0).store(new DeviceAddress(pagedStore))));
  }

  void copyIn(long address, ByteBuffer source) {
    synchronized (lock) {
      if (dryRun) {
        return;
      }
      if (source.isDirect()) {
        Status.check(
            qlora4j.q4j_copy_in(
                context(), new DeviceAddress(address), new Pointer(source), source.remaining()));
        return;
      }
      ByteBuffer rest = source.duplicate();
      for (long done = 0; rest.hasRemaining(); ) {
        ByteBuffer bridge = staging();
        int count = Math.min(bridge.capacity(), rest.remaining());
        bridge.put(0, rest, rest.position(), count);
        rest.position(rest.position() + count);
        Status.check(
            qlora4j.q4j_copy_in(
                context(), new DeviceAddress(address + done), new Pointer(bridge), count));
        done += count;
      }
    }
  }

  void copyOut(ByteBuffer target, long address) {
    synchronized (lock) {
      if (target.isReadOnly()) {
        throw new IllegalArgumentException("cannot copy device memory into a read-only buffer");
      }
      if (dryRun) {
        for (int i = target.position(); i < target.limit(); i++) {
          target.put(i, (byte) 0);
        }
        return;
      }
      if (target.isDirect()) {
        Status.check(
            qlora4j.q4j_copy_out(
                context(), new Pointer(target), new DeviceAddress(address), target.remaining()));
        return;
      }
      ByteBuffer rest = target.duplicate();
      for (long done = 0; rest.hasRemaining(); ) {
        ByteBuffer bridge = staging();
        int count = Math.min(bridge.capacity(), rest.remaining());
        Status.check(
            qlora4j.q4j_copy_out(
                context(), new Pointer(bridge), new DeviceAddress(address + done), count));
        rest.put(bridge.limit(count));
        done += count;
      }
    }
  }

  void fillMemory(long address, int value, long bytes) {
    synchronized (lock) {
      if (dryRun) {
        return;
      }
      Status.check(qlora4j.q4j_fill(context(), new DeviceAddress(address), value & 0xff, bytes));
    }
  }

  /**
   * Releases the workspace and the context. Buffers that are still open are reported in the log and
   * become unusable.
   */
  @Override
  public void close() {
    synchronized (lock) {
      if (closed) {
        return;
      }
      DeviceBuffer scratch = workspace;
      workspace = null;
      if (scratch != null) {
        scratch.close();
      }
      if (allocatedBytes != 0) {
        LOG.log(
            System.Logger.Level.WARNING,
            "kernel pack "
                + name
                + " is closed while "
                + allocatedBytes
                + " bytes of device memory are still allocated");
      }
      closed = true;
      alarm.disarm();
      try {
        // Counted above as memory. Left to themselves they would outlive what they run on.
        pagedStores.forEach(this::destroyStore);
      } finally {
        pagedStores.clear();
        frame.free();
        qlora4j.q4j_context_destroy(context);
      }
    }
  }

  @Override
  public String toString() {
    return "KernelPack[" + name + ", " + buildInfo + "]";
  }
}
