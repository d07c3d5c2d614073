/* The compiled inner loop of whole file systems: walks a tree and packs its plain small files, exactly as
 * `changeset.walk`, `export.pack` and `tar.header` (profile docker) would, without the interpreter between them.
 *
 * It does an entry completely or not at all: whatever is not plain (hard links, large files, capabilities, devices,
 * sockets, numbers that need PAX, anything that vanished, changed or cannot be read, directories too deep or on another
 * file system) is handed over untouched, with all that lies below it, and the code in Python does it and has the
 * errors. So nothing here decides anything, and every rule is written down once more only where speed needs it.
 *
 * No Python headers: it is called through ctypes, which gives up the interpreter's lock meanwhile. One walk belongs to
 * one thread at a time.
 */
#include "levels.h"

#include "header.h"

#include "ahead.h"

#define VERSION 4
#define FACT 43                       /* the part of a fact that always has the same length */
#define FACTS (FACT + LONGEST + 256)  /* more than the fact of one entry can be */

#define WIDE (256 << 10)              /* bytes of a directory whose names take a moment to list */

enum reason { MORE = 0, DONE = 1, HANDED = 2, FAILED = 3 };

/* What one call did; `streamer.native` has the same fields. */
struct step {
    uint64_t used;      /* bytes written to `out` */
    uint64_t facts;     /* bytes written to `facts` */
    uint64_t size;      /* bytes of the archive that the entries done are */
    uint64_t entries;
    int64_t newest;     /* latest ctime of them, nanoseconds */
    int32_t reason;
    int32_t parent;     /* HANDED: the directory that the entry is in; valid until the next call */
    int32_t layer;      /* HANDED: which of the roots that directory is below */
    int32_t error;      /* FAILED: why the names in a directory, whose entry is done, could not be listed */
    const char *path;   /* MORE: of the next entry, NULL where that is not known yet; HANDED: of the one handed over,
                         * behind all that was done; FAILED: of the directory */
    uint64_t length;    /* of `path` */
    uint64_t name;      /* where its last component begins */
};

/* ---- entries ------------------------------------------------------------------------------------------------- */

/* Whether a list of names of attributes holds one that a header tells of, or that says where a file's data lies. */
static int special(const struct walk *walk, ssize_t length) {
    const char *names = walk->list;
    size_t prefix = walk->marks != NULL ? strlen(walk->marks) : 0;
    for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1) {
        if (strcmp(names + at, "security.capability") == 0) return 1;
        if (prefix && strncmp(names + at, walk->marks, prefix) == 0 && strcmp(names + at + prefix, "metacopy") == 0)
            return 1;
    }
    return 0;
}

/* 0: nothing special; anything else: let Python look. */
static int marked(struct walk *walk, int fd) {
    ssize_t got = flistxattr(fd, walk->list, sizeof walk->list);
    if (got < 0) return errno != ENOTSUP;
    return special(walk, got);
}

static int marked_at(struct walk *walk, int parent, const char *name) {
    if (!walk->no_listxattrat) {
        long got = syscall(SYS_LISTXATTRAT, parent, name, AT_SYMLINK_NOFOLLOW, walk->list, sizeof walk->list);
        if (got >= 0) return special(walk, got);
        if (errno == ENOTSUP) return 0;
        if (errno != ENOSYS && errno != EPERM) return 1;
        walk->no_listxattrat = 1;
    }
    char place[300];
    int length = 0;
    static const char self[] = "/proc/self/fd/";
    memcpy(place, self, sizeof self - 1);
    length = sizeof self - 1;
    char digits[12];
    int count = 0;
    for (unsigned value = (unsigned)parent; value || !count; value /= 10) digits[count++] = (char)('0' + value % 10);
    while (count) place[length++] = digits[--count];
    place[length++] = '/';
    size_t size = strlen(name);
    if (size > 255) return 1;
    memcpy(place + length, name, size + 1);
    ssize_t got = llistxattr(place, walk->list, sizeof walk->list);
    if (got < 0) return errno != ENOTSUP;
    return special(walk, got);
}

static int64_t nanoseconds(const struct timespec *moment) {
    return (int64_t)moment->tv_sec * 1000000000 + moment->tv_nsec;
}

/* The mtime that a header shows; -1 where a plain one cannot. */
static int64_t shown(const struct walk *walk, const struct stat *st) {
    if (st->st_mtim.tv_sec < 0 || st->st_mtim.tv_sec >> 33) return -1;
    int64_t seconds = st->st_mtim.tv_sec;
    if (nanoseconds(&st->st_mtim) > walk->latest) seconds = walk->latest / 1000000000;
    return seconds;
}

static int owned(const struct stat *st) { return !((st->st_uid | st->st_gid) >> 21); }

static int unchanged(int fd, const struct stat *st) {
    struct stat now;
    return fstat(fd, &now) == 0 && now.st_size == st->st_size && now.st_mtim.tv_sec == st->st_mtim.tv_sec
        && now.st_mtim.tv_nsec == st->st_mtim.tv_nsec && now.st_ctim.tv_sec == st->st_ctim.tv_sec
        && now.st_ctim.tv_nsec == st->st_ctim.tv_nsec;
}

static int fill(int fd, char *out, size_t size) {
    size_t got = 0;
    while (got < size) {
        ssize_t more = read(fd, out + got, size - got);
        if (more < 0 && errno == EINTR) continue;
        if (more <= 0) return -1;
        got += (size_t)more;
    }
    return 0;
}

static char *store(char *to, int bytes, uint64_t value) {
    for (int at = 0; at < bytes; at++) to[at] = (char)(value >> (8 * at));
    return to + bytes;
}

/* `export.pack.fact`: what an archive's version depends on besides the options. Its length. */
static size_t fact(char *out, const char *name, size_t length, const struct stat *st, char type, const char *link,
                   size_t link_length) {
    char *to = store(out, 1, (uint64_t)type);
    to = store(to, 2, st->st_mode & 07777);
    to = store(to, 4, st->st_uid);
    to = store(to, 4, st->st_gid);
    to = store(to, 8, type == '0' ? (uint64_t)st->st_size : 0);
    to = store(to, 8, type == '5' ? 0 : (uint64_t)st->st_ino);
    to = store(to, 8, (uint64_t)nanoseconds(&st->st_mtim));
    to = store(to, 8, (uint64_t)nanoseconds(&st->st_ctim));
    memcpy(to, name, length);
    to += length;
    *to++ = 0;
    memcpy(to, link, link_length);
    to += link_length;
    *to++ = 0;
    return (size_t)(to - out);
}

/* ---- the walk ------------------------------------------------------------------------------------------------ */

int streamer_version(void) { return VERSION; }

/* A walk of everything below the `count` directories `roots` (duplicated; all on one file system), topmost first, which
 * are layers of one tree if `marks` is what attributes of such layers begin with. Names are put behind `prefix` (empty,
 * or ending in a slash). If `after` is not empty it begins at that path (relative to the roots), or at what comes first
 * behind it. NULL with errno. */
struct walk *streamer_walk_open(const int *roots, int count, const char *marks, const char *prefix, size_t prefix_length,
                                const char *after, int64_t latest, uint64_t whole, int strict) {
    struct walk *walk = opened(roots, count, marks, prefix, prefix_length, after);
    if (walk == NULL) return NULL;
    walk->latest = latest;
    walk->whole = whole;
    walk->strict = strict;
    return walk;
}

void streamer_walk_close(struct walk *walk) {
    dismiss(walk);
    ended(walk);
}

static void go(struct walk *walk, char *out, uint64_t enough, char *facts, uint64_t facts_room, uint64_t limit,
               struct step *step) {
    char link[104];
    memset(step, 0, sizeof *step);
    step->newest = INT64_MIN;
    for (;;) {
        struct level *level = walk->depth ? &walk->levels[walk->depth - 1] : NULL;
        if (level != NULL && !level->listed) {
            step->path = NULL;
            step->reason = MORE;
            if (step->used) return; /* what there is leaves before a moment is spent on the names */
            if (list(level) < 0) {
                step->reason = FAILED;
                step->error = errno;
                step->path = walk->path;
                step->length = level->prefix - 1;
                return;
            }
        }
        while (walk->depth && walk->levels[walk->depth - 1].next == walk->levels[walk->depth - 1].count) leave(walk);
        if (!walk->depth) {
            step->reason = DONE;
            step->length = 0;
            return;
        }
        level = &walk->levels[walk->depth - 1];
        const size_t index = level->next;
        const struct folder *part = level->parts[part_at(level, index)];
        const char *name = name_at(level, index);
        size_t length = strlen(name), end = level->prefix + length;
        memcpy(walk->path + level->prefix, name, length + 1);
        step->path = walk->path;
        step->length = end;
        step->name = level->prefix;
        step->parent = part->fd;
        step->layer = part->layer;
        if ((out != NULL && step->used >= enough) || (facts != NULL && step->facts + FACTS > facts_room)) {
            step->reason = MORE;
            return;
        }

        struct stat st;
        int fd = -1, inside = 0;
        char type;
        uint64_t size = 0;
        size_t linked = 0;
        unsigned char kind = type_at(level, index);
        if (end + 2 > LONGEST) goto handed;
        if (kind == DT_UNKNOWN) {
            if (fstatat(part->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) goto handed;
            kind = IFTODT(st.st_mode);
        }
        if (kind == DT_CHR && walk->marks != NULL) {
            if (fstatat(part->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev) goto handed;
            level->next = behind(level, index); /* a whiteout: here is nothing */
            walk->passed++;
            continue;
        }
        if (kind == DT_REG) {
            type = '0';
            if (out == NULL) {
                if (fstatat(part->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || marked_at(walk, part->fd, name))
                    goto handed;
            } else {
                fd = open_file(part->fd, name);
                if (fd < 0 || fstat(fd, &st) < 0) goto handed;
            }
            if (!S_ISREG(st.st_mode) || st.st_nlink != 1 || (uint64_t)st.st_size > walk->whole) goto handed;
            if (fd >= 0 && marked(walk, fd)) goto handed;
            size = (uint64_t)st.st_size;
        } else if (kind == DT_DIR) {
            type = '5';
            if (walk->depth == LEVELS) goto handed;
            fd = open_directory(part->fd, name);
            if (fd < 0 || fstat(fd, &st) < 0 || st.st_dev != walk->device || marked(walk, fd)) goto handed;
            inside = 1;
            walk->path[end] = '/';
            walk->path[end + 1] = 0;
        } else if (kind == DT_LNK) {
            type = '2';
            if (fstatat(part->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISLNK(st.st_mode) || st.st_nlink != 1)
                goto handed;
            ssize_t got = readlinkat(part->fd, name, link, sizeof link);
            if (got <= 0 || got > 100 || marked_at(walk, part->fd, name)) goto handed;
            linked = (size_t)got;
            for (size_t at = 0; at < linked; at++)
                if (link[at] & 0x80) goto handed;
            st.st_mode |= 0777;
        } else
            goto handed;
        int64_t seconds = shown(walk, &st);
        if (seconds < 0 || !owned(&st)) goto handed;

        const size_t named = end + (size_t)inside, headers = measure(walk->path, named), content = padded(size);
        const uint64_t whole = headers + content;
        if (step->size + whole > limit) {
            if (fd >= 0) close(fd);
            walk->path[end] = 0;
            step->reason = MORE;
            return;
        }
        if (inside) {
            int entered = descend(walk, index, fd, end + 1, out != NULL && st.st_size >= WIDE);
            fd = -1;
            if (entered < 0) goto handed;
        } else if (out != NULL) {
            char *to = out + step->used + headers;
            if (size && (fill(fd, to, size) < 0 || (walk->strict && !unchanged(fd, &st)))) goto handed;
            memset(to + size, 0, content - size);
            if (fd >= 0) close(fd);
            fd = -1;
        }
        level->next = behind(level, index);
        walk->passed++;
        if (out != NULL) {
            encode(out + step->used, walk->path, named, &st, type, size, (uint64_t)seconds, link, linked);
            step->used += whole;
        }
        if (facts != NULL) {
            step->facts += fact(facts + step->facts, walk->path, named, &st, type, link, linked);
            int64_t moment = nanoseconds(&st.st_ctim);
            if (moment > step->newest) step->newest = moment;
        }
        step->size += whole;
        step->entries++;
        continue;

    handed:
        if (fd >= 0) close(fd);
        walk->path[end] = 0;
        level->next = behind(level, index);
        walk->passed++;
        step->reason = HANDED;
        return;
    }
}

/* Goes on until `out` has `enough` bytes (it has room for that, `whole` and 32 KiB more), or `facts` has room for no
 * further entry, or the next entry would reach beyond `limit` bytes from here. With `out` NULL nothing is opened or read
 * but directories: only sizes and facts come. `facts` may be NULL. */
void streamer_walk_next(struct walk *walk, char *out, uint64_t enough, char *facts, uint64_t facts_room, uint64_t limit,
                        struct step *step) {
    long before = walk->scout == NULL ? disk() : 0;
    go(walk, out, enough, facts, facts_room, limit, step);
    reconsider(walk, out != NULL, before, step->reason == MORE);
}
