# Compiles modules to unchecked-hash bytecode (PEP 552), run by the interpreter that will import them.
#
# In the directory given as argument: `sources` holds the modules one behind the other, `index` a line for each of them:
# `<offset> <size> <path in the image>`. Each worker writes the bytecode of its share, `code-<worker>`, and a line for
# each module that could be compiled, `done-<worker>`: `<number of the module> <offset> <size>`. `tag` gets the word
# that is put into the names of bytecode files. Modules that cannot be compiled are left out, as installers do.
#
# The same module must give the same bytes whatever was compiled before it and by how many workers. From Python 3.11 on
# it does; before, what marshal writes depends on what else is alive, so there every module gets a process of its own.
# PYTHONHASHSEED must be set, because those versions also write sets in hash order.
import gc
import importlib.util
import marshal
import os
import sys
import warnings

ALONE = sys.version_info < (3, 11)


def compiled(source, path):
    code = compile(source, path, "exec", dont_inherit=True, optimize=0)
    return importlib.util.MAGIC_NUMBER + b"\1\0\0\0" + importlib.util.source_hash(source) + marshal.dumps(code)


def forked(function, *arguments):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = function(*arguments)
        finally:
            os._exit(code)
    return child


def ended_well(child):
    return os.waitpid(child, 0)[1] == 0


def append(out, source, path):
    try:
        code = compiled(source, path)
    except Exception:
        return 0
    out.write(code)
    return 0


def work(directory, worker, share):
    offset = 0
    with open(os.path.join(directory, "sources"), "rb") as sources, open(
        os.path.join(directory, "code-%d" % worker), "ab", buffering=0
    ) as out, open(os.path.join(directory, "done-%d" % worker), "w") as done:
        for number, start, size, path in share:
            sources.seek(start)
            source = sources.read(size)
            if ALONE:
                if not ended_well(forked(append, out, source, path)):
                    return 1
            else:
                append(out, source, path)
            end = os.fstat(out.fileno()).st_size
            if end > offset:
                done.write("%d %d %d\n" % (number, offset, end - offset))
                # What is buffered would be written by every child as well.
                done.flush()
            offset = end
    return 0


def main(directory):
    warnings.simplefilter("ignore")
    gc.disable()
    modules = []
    with open(os.path.join(directory, "index"), "rb") as index:
        for number, line in enumerate(index):
            start, size, path = line.decode("utf-8").rstrip("\n").split(" ", 2)
            modules.append((number, int(start), int(size), path))
    with open(os.path.join(directory, "tag"), "w") as tag:
        tag.write(sys.implementation.cache_tag)
    count = max(1, min(len(os.sched_getaffinity(0)), len(modules)))
    # The largest first and then in turn, so that all end at about the same time.
    modules.sort(key=lambda it: (-it[2], it[0]))
    children = [forked(work, directory, worker, modules[worker::count]) for worker in range(count)]
    return 0 if all([ended_well(child) for child in children]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
