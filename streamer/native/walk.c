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
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define VERSION 1
#define LEVELS 60           /* below `changeset.trail.OPEN`: that many directories are open at a time */
#define NAMES (64 << 10)    /* bytes asked of getdents64 at a time */
#define LONGEST 8192        /* of a path; longer ones are handed over */
#define BLOCK 512
#define HEADERS (LONGEST + 4 * BLOCK)     /* more than the headers of one entry can be */
#define FACT 43                           /* the part of a fact that always has the same length */
#define FACTS (FACT + LONGEST + 256)      /* more than the fact of one entry can be */
#define SYS_LISTXATTRAT 465 /* the same number on every architecture; since Linux 6.13 */

enum reason { MORE = 0, DONE = 1, HANDED = 2 };

struct level {
    int fd;
    char *names;        /* type byte, name, NUL; one after the other */
    uint32_t *order;    /* where each begins, in the order of the walk */
    size_t count, next;
    size_t prefix;      /* length of the path of this directory, with its slash */
};

struct walk {
    struct level levels[LEVELS];
    int depth;          /* levels in use */
    dev_t device;
    int64_t latest;     /* no mtime later than this, nanoseconds */
    uint64_t whole;     /* files larger than this are handed over */
    int strict;         /* a file must not have changed while it was read */
    int no_listxattrat;
    char path[LONGEST + 512];
    char list[4096];
};

/* What one call did; `streamer.native` has the same fields. */
struct step {
    uint64_t used;      /* bytes written to `out` */
    uint64_t facts;     /* bytes written to `facts` */
    uint64_t size;      /* bytes of the archive that the entries done are */
    uint64_t entries;
    int64_t newest;     /* latest ctime of them, nanoseconds */
    int32_t reason;
    int32_t parent;     /* HANDED: the directory that the entry is in; valid until the next call */
    const char *path;   /* MORE: of the next entry; HANDED: of the one handed over, behind all that was done */
    uint64_t length;    /* of `path` */
    uint64_t name;      /* where its last component begins */
};

/* ---- names of a directory ------------------------------------------------------------------------------------ */

struct linux_dirent64 {
    uint64_t d_ino;
    int64_t d_off;
    uint16_t d_reclen;
    uint8_t d_type;
    char d_name[];
};

static int before(const void *a, const void *b, void *names) {
    return strcmp((char *)names + *(const uint32_t *)a + 1, (char *)names + *(const uint32_t *)b + 1);
}

static int list(struct level *level) {
    char *buffer = malloc(NAMES);
    size_t used = 0, room = 0, places = 0;
    if (buffer == NULL) return -1;
    for (;;) {
        long got = syscall(SYS_getdents64, level->fd, buffer, NAMES);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            free(buffer);
            if (got < 0) return -1;
            break;
        }
        for (long at = 0; at < got;) {
            struct linux_dirent64 *each = (struct linux_dirent64 *)(buffer + at);
            const char *name = each->d_name;
            at += each->d_reclen;
            if (name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0))) continue;
            size_t size = strlen(name) + 2;
            if (used + size > room) {
                room = 2 * room + size + 512;
                char *grown = room > UINT32_MAX ? NULL : realloc(level->names, room);
                if (grown == NULL) { free(buffer); errno = ENOMEM; return -1; }
                level->names = grown;
            }
            if (level->count == places) {
                places = 2 * places + 32;
                uint32_t *grown = realloc(level->order, places * sizeof *grown);
                if (grown == NULL) { free(buffer); errno = ENOMEM; return -1; }
                level->order = grown;
            }
            level->order[level->count++] = (uint32_t)used;
            level->names[used] = (char)each->d_type;
            memcpy(level->names + used + 1, name, size - 1);
            used += size;
        }
    }
    qsort_r(level->order, level->count, sizeof *level->order, before, level->names);
    return 0;
}

static void leave(struct walk *walk) {
    struct level *level = &walk->levels[--walk->depth];
    close(level->fd);
    free(level->names);
    free(level->order);
}

/* Takes `fd` over, also where it fails. */
static struct level *enter(struct walk *walk, int fd, size_t prefix) {
    struct level *level = &walk->levels[walk->depth];
    memset(level, 0, sizeof *level);
    level->fd = fd;
    level->prefix = prefix;
    walk->depth++;
    if (list(level) == 0) return level;
    int error = errno;
    leave(walk);
    errno = error;
    return NULL;
}

/* ---- headers ------------------------------------------------------------------------------------------------- */

static void octal(char *field, int digits, uint64_t value) {
    for (int at = digits - 1; at >= 0; at--, value >>= 3) field[at] = (char)('0' + (value & 7));
}

static void seal(char *block) {
    uint32_t sum = 8 * ' ';
    for (int at = 0; at < 148; at++) sum += (uint8_t)block[at];
    for (int at = 156; at < BLOCK; at++) sum += (uint8_t)block[at];
    octal(block + 148, 6, sum);
    block[154] = 0;
    block[155] = ' ';
}

static char *ustar(char *out, const struct stat *st, char type, uint64_t size, uint64_t seconds) {
    memset(out, 0, BLOCK);
    octal(out + 100, 7, st->st_mode & 07777);
    octal(out + 108, 7, st->st_uid);
    octal(out + 116, 7, st->st_gid);
    octal(out + 124, 11, size);
    octal(out + 136, 11, seconds);
    out[156] = type;
    memcpy(out + 257, "ustar\00000", 8);
    octal(out + 329, 7, 0);
    octal(out + 337, 7, 0);
    return out;
}

static size_t ascii(char *to, const char *from, size_t length) {
    size_t kept = 0;
    for (size_t at = 0; at < length; at++)
        if (!(from[at] & 0x80)) to[kept++] = from[at];
    return kept;
}

/* `tar.header._field` */
static void field(char *to, const char *text, size_t length, size_t width) {
    memcpy(to, text, length < width ? length : width);
    if (length <= width || to[width - 1] != '/') return;
    size_t end = width - 1;
    while (end && to[end - 1] == '/') end--;
    to[end] = 0;
}

/* Where ustar's prefix field ends (`tar.header._split`); 0 if the name does not fit. */
static size_t split(const char *name, size_t length) {
    size_t end = length;
    if (end > 156) end = 156;
    else if (name[length - 1] == '/') end--;
    while (end && name[end - 1] != '/') end--;
    if (end < 2) return 0;
    size_t at = end - 1, rest = length - at - 1;
    return at > 155 || rest == 0 || rest > 100 ? 0 : at;
}

static int plain(const char *text, size_t length) {
    char seen = 0;
    for (size_t at = 0; at < length; at++) seen |= text[at];
    return !(seen & 0x80);
}

/* The length of a PAX record `path`, which counts the digits of itself; how many those are. */
static size_t record_of(size_t length, size_t *digits) {
    size_t record = length + 7;
    for (int again = 0; again < 2; again++) {
        *digits = 0;
        for (size_t rest = record; rest; rest /= 10) ++*digits;
        record = length + 7 + *digits;
    }
    return record;
}

static size_t padded(size_t size) { return (size + BLOCK - 1) / BLOCK * BLOCK; }

/* How long the header of a plain entry is. `name` ends in a slash for a directory. */
static size_t measure(const char *name, size_t length) {
    size_t digits;
    if (plain(name, length) && (length <= 100 || split(name, length))) return BLOCK;
    return 2 * BLOCK + padded(record_of(length, &digits));
}

/* The header of a plain entry at `out`; as long as `measure` says. */
static void encode(char *out, const char *name, size_t length, const struct stat *st, char type, uint64_t size,
                   uint64_t seconds, const char *link, size_t link_length) {
    size_t at = 0;
    if (plain(name, length) && (length <= 100 || (at = split(name, length)))) {
        ustar(out, st, type, size, seconds);
        if (at) {
            memcpy(out + 345, name, at);
            memcpy(out, name + at + 1, length - at - 1);
        } else
            memcpy(out, name, length);
        memcpy(out + 157, link, link_length);
        seal(out);
        return;
    }
    size_t digits, record = record_of(length, &digits), body_size = padded(record);
    memset(out, 0, BLOCK + body_size);
    char title[LONGEST + 600];
    size_t parent = length;
    while (parent && name[parent - 1] != '/') parent--; /* with its slash */
    size_t made = 0;
    memcpy(title, name, parent);
    made = parent;
    memcpy(title + made, "PaxHeaders.0", 12);
    made += 12;
    if (parent < length) {
        title[made++] = '/';
        memcpy(title + made, name + parent, length - parent);
        made += length - parent;
    }
    made = ascii(title, title, made);
    if (made > 100) made = 100;
    while (made && title[made - 1] == '/') made--;
    memcpy(out, title, made);
    octal(out + 100, 7, 0);
    octal(out + 108, 7, 0);
    octal(out + 116, 7, 0);
    octal(out + 124, 11, record);
    octal(out + 136, 11, 0);
    out[156] = 'x';
    memcpy(out + 257, "ustar\00000", 8);
    seal(out);

    char *body = out + BLOCK;
    size_t value = record;
    for (size_t place = digits; place; place--, value /= 10) body[place - 1] = (char)('0' + value % 10);
    memcpy(body + digits, " path=", 6);
    memcpy(body + digits + 6, name, length);
    body[record - 1] = '\n';

    char *main = ustar(body + body_size, st, type, size, seconds);
    made = ascii(title, name, length);
    field(main, title, made, 100);
    memcpy(main + 157, link, link_length);
    seal(main);
}

/* ---- entries ------------------------------------------------------------------------------------------------- */

/* Whether a list of names of attributes holds the one that a header tells of. */
static int capable(const char *names, ssize_t length) {
    for (ssize_t at = 0; at < length; at += (ssize_t)strlen(names + at) + 1)
        if (strcmp(names + at, "security.capability") == 0) return 1;
    return 0;
}

/* 0: no capability; anything else: let Python look. */
static int marked(struct walk *walk, int fd) {
    ssize_t got = flistxattr(fd, walk->list, sizeof walk->list);
    if (got < 0) return errno != ENOTSUP;
    return capable(walk->list, got);
}

static int marked_at(struct walk *walk, int parent, const char *name) {
    if (!walk->no_listxattrat) {
        long got = syscall(SYS_LISTXATTRAT, parent, name, AT_SYMLINK_NOFOLLOW, walk->list, sizeof walk->list);
        if (got >= 0) return capable(walk->list, got);
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
    return capable(walk->list, got);
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

static int open_file(int parent, const char *name) {
    const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
    int fd = openat(parent, name, flags | O_NOATIME);
    return fd < 0 && errno == EPERM ? openat(parent, name, flags) : fd; /* O_NOATIME is for the owner */
}

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

/* A walk of everything below the directory `root` (duplicated; all on its file system), whose names are put behind
 * `prefix` (empty, or ending in a slash). If `after` is not empty it begins at that path (relative to `root`), or at
 * what comes first behind it. NULL with errno. */
struct walk *streamer_walk_open(int root, const char *prefix, size_t prefix_length, const char *after, int64_t latest,
                                uint64_t whole, int strict) {
    struct stat st;
    if (prefix_length >= LONGEST) { errno = ENAMETOOLONG; return NULL; }
    struct walk *walk = calloc(1, sizeof *walk);
    if (walk == NULL) return NULL;
    walk->latest = latest;
    walk->whole = whole;
    walk->strict = strict;
    memcpy(walk->path, prefix, prefix_length);
    int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct level *level = NULL;
    if (fd >= 0 && fstat(fd, &st) < 0) { close(fd); fd = -1; }
    if (fd >= 0) {
        walk->device = st.st_dev;
        level = enter(walk, fd, prefix_length);
    }
    if (level == NULL) {
        free(walk);
        return NULL;
    }
    while (*after) {
        const char *end = strchrnul(after, '/');
        size_t length = (size_t)(end - after), low = 0, high = level->count;
        if (length > 255) break;
        char name[256];
        memcpy(name, after, length);
        name[length] = 0;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (strcmp(level->names + level->order[middle] + 1, name) < 0) low = middle + 1;
            else high = middle;
        }
        level->next = low;
        after = *end ? end + 1 : end;
        if (low == level->count || strcmp(level->names + level->order[low] + 1, name) != 0) break;
        if (!*after) break;
        /* A directory that is entered without being told of. What it may be instead shows in the facts. */
        if (walk->depth == LEVELS || level->prefix + length + 2 > LONGEST) break;
        fd = openat(level->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) break;
        if (fstat(fd, &st) < 0 || st.st_dev != walk->device) { close(fd); break; }
        memcpy(walk->path + level->prefix, name, length);
        walk->path[level->prefix + length] = '/';
        level->next = low + 1;
        struct level *inside = enter(walk, fd, level->prefix + length + 1);
        if (inside == NULL) { level->next = low; break; }
        level = inside;
    }
    return walk;
}

void streamer_walk_close(struct walk *walk) {
    while (walk->depth) leave(walk);
    free(walk);
}

/* Goes on until `out` has `enough` bytes (it has room for that, `whole` and 32 KiB more), or `facts` has room for no
 * further entry, or the next entry would reach beyond `limit` bytes from here. With `out` NULL nothing is opened or read
 * but directories: only sizes and facts come. `facts` may be NULL. */
void streamer_walk_next(struct walk *walk, char *out, uint64_t enough, char *facts, uint64_t facts_room, uint64_t limit,
                        struct step *step) {
    char link[104];
    memset(step, 0, sizeof *step);
    step->newest = INT64_MIN;
    for (;;) {
        while (walk->depth && walk->levels[walk->depth - 1].next == walk->levels[walk->depth - 1].count) leave(walk);
        if (!walk->depth) {
            step->reason = DONE;
            step->length = 0;
            return;
        }
        struct level *level = &walk->levels[walk->depth - 1];
        const char *listed = level->names + level->order[level->next];
        const char *name = listed + 1;
        size_t length = strlen(name), end = level->prefix + length;
        memcpy(walk->path + level->prefix, name, length + 1);
        step->path = walk->path;
        step->length = end;
        step->name = level->prefix;
        step->parent = level->fd;
        if ((out != NULL && step->used >= enough) || (facts != NULL && step->facts + FACTS > facts_room)) {
            step->reason = MORE;
            return;
        }

        struct stat st;
        int fd = -1, inside = 0;
        char type;
        uint64_t size = 0;
        size_t linked = 0;
        unsigned char kind = (unsigned char)listed[0];
        if (end + 2 > LONGEST) goto handed;
        if (kind == DT_UNKNOWN) {
            if (fstatat(level->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) goto handed;
            kind = S_ISREG(st.st_mode) ? DT_REG : S_ISDIR(st.st_mode) ? DT_DIR : S_ISLNK(st.st_mode) ? DT_LNK : DT_FIFO;
        }
        if (kind == DT_REG) {
            type = '0';
            if (out == NULL) {
                if (fstatat(level->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || marked_at(walk, level->fd, name))
                    goto handed;
            } else {
                fd = open_file(level->fd, name);
                if (fd < 0 || fstat(fd, &st) < 0) goto handed;
            }
            if (!S_ISREG(st.st_mode) || st.st_nlink != 1 || (uint64_t)st.st_size > walk->whole) goto handed;
            if (fd >= 0 && marked(walk, fd)) goto handed;
            size = (uint64_t)st.st_size;
        } else if (kind == DT_DIR) {
            type = '5';
            if (walk->depth == LEVELS) goto handed;
            fd = openat(level->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (fd < 0 || fstat(fd, &st) < 0 || st.st_dev != walk->device || marked(walk, fd)) goto handed;
            inside = 1;
            walk->path[end] = '/';
            walk->path[end + 1] = 0;
        } else if (kind == DT_LNK) {
            type = '2';
            if (fstatat(level->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISLNK(st.st_mode) || st.st_nlink != 1)
                goto handed;
            ssize_t got = readlinkat(level->fd, name, link, sizeof link);
            if (got <= 0 || got > 100 || marked_at(walk, level->fd, name)) goto handed;
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
            if (enter(walk, fd, end + 1) == NULL) { fd = -1; goto handed; }
            fd = -1;
        } else if (out != NULL) {
            char *to = out + step->used + headers;
            if (size && (fill(fd, to, size) < 0 || (walk->strict && !unchanged(fd, &st)))) goto handed;
            memset(to + size, 0, content - size);
            if (fd >= 0) close(fd);
            fd = -1;
        }
        level->next++;
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
        level->next++;
        step->reason = HANDED;
        return;
    }
}
