/* The directories that a walk is in, their names in the walk's order, and where it begins. Included by `walk.c`.
 *
 * A directory may be several that an overlay would show as one: the parts, topmost first. What is under a name is what
 * the topmost part has there that has the name at all; directories go on in the parts below (`changeset.stack`).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define LEVELS 60        /* below `changeset.trail.OPEN`: that many directories one in the other */
#define MOST_OPEN 256    /* parts of all of them that are open at a time */
#define FEW_OPEN 48      /* the same of a walk that reads ahead, besides its roots: it can do without */
#define MOST_PARTS 250   /* of one directory; a byte holds the number of one; `streamer.native.MOST_ROOTS` */
#define NAMES (64 << 10) /* bytes asked of getdents64 at a time */
#define LONGEST 8192     /* of a path; longer ones are handed over */

/* One layer's directory. Several threads may use it; the last one closes it. */
struct folder {
    int fd;
    int layer;
    atomic_int users;
};

struct name {
    uint64_t key; /* its first bytes, most significant first */
    uint32_t at;  /* in `names`: type, number of the part, the name, NUL */
};

struct level {
    struct folder **parts;
    int width;
    char *names;
    struct name *order;
    size_t count, next;
    size_t prefix; /* length of the path of this directory, with its slash */
    int listed;
};

struct walk {
    struct level levels[LEVELS];
    int depth; /* levels in use */
    int open;  /* parts of them */
    int most;  /* of these */
    dev_t device;
    const char *marks;   /* what attributes of overlays begin with; NULL where none have a meaning */
    int64_t latest;      /* no mtime later than this, nanoseconds */
    uint64_t whole;      /* files larger than this are handed over */
    int strict;          /* a file must not have changed while it was read */
    int no_listxattrat;
    size_t root;         /* length of the prefix of every name */
    struct scout *scout; /* reads ahead, while that is of use */
    uint64_t passed;     /* entries done or handed over */
    char path[LONGEST + 1024]; /* some file systems have names of 765 bytes */
    char list[4096];
    char marks_kept[32];
};

static void release(struct folder *folder) {
    if (atomic_fetch_sub(&folder->users, 1) != 1) return;
    close(folder->fd);
    free(folder);
}

/* ---- names --------------------------------------------------------------------------------------------------- */

struct linux_dirent64 {
    uint64_t d_ino;
    int64_t d_off;
    uint16_t d_reclen;
    uint8_t d_type;
    char d_name[];
};

static unsigned char type_at(const struct level *level, size_t index) {
    return (unsigned char)level->names[level->order[index].at];
}

static int part_at(const struct level *level, size_t index) {
    return (unsigned char)level->names[level->order[index].at + 1];
}

static const char *name_at(const struct level *level, size_t index) {
    return level->names + level->order[index].at + 2;
}

/* Behind all that have the same name as the one at the index. */
static size_t behind(const struct level *level, size_t index) {
    const char *name = name_at(level, index++);
    while (level->width > 1 && index < level->count && strcmp(name_at(level, index), name) == 0) index++;
    return index;
}

static uint64_t key_of(const char *name) {
    uint64_t key = 0;
    for (int at = 0; at < 8; at++) {
        key = key << 8 | (unsigned char)*name;
        if (*name) name++;
    }
    return key;
}

/* By name, and of equal ones the topmost part's first: it was listed first. */
static int before(const void *a, const void *b, void *names) {
    const struct name *one = a, *other = b;
    if (one->key != other->key) return one->key < other->key ? -1 : 1;
    int order = strcmp((char *)names + one->at + 2, (char *)names + other->at + 2);
    return order ? order : one->at < other->at ? -1 : 1;
}

static int list(struct level *level) {
    level->listed = 1;
    char *buffer = malloc(NAMES);
    size_t used = 0, room = 0, places = 0;
    if (buffer == NULL) return -1;
    for (int part = 0; part < level->width; part++)
        for (;;) {
            long got = syscall(SYS_getdents64, level->parts[part]->fd, buffer, NAMES);
            if (got < 0 && errno == EINTR) continue;
            if (got < 0 && errno == ENOENT) break; /* removed while it is open: it has no names any more */
            if (got < 0) {
                free(buffer);
                return -1;
            }
            if (got == 0) break;
            for (long at = 0; at < got;) {
                struct linux_dirent64 *each = (struct linux_dirent64 *)(buffer + at);
                const char *name = each->d_name;
                at += each->d_reclen;
                if (name[0] == '.' && (name[1] == 0 || (name[1] == '.' && name[2] == 0))) continue;
                size_t size = strlen(name) + 3;
                if (used + size > room) {
                    room = 2 * room + size + 512;
                    char *grown = room > UINT32_MAX ? NULL : realloc(level->names, room);
                    if (grown == NULL) { free(buffer); errno = ENOMEM; return -1; }
                    level->names = grown;
                }
                if (level->count == places) {
                    places = 2 * places + 32;
                    struct name *grown = realloc(level->order, places * sizeof *grown);
                    if (grown == NULL) { free(buffer); errno = ENOMEM; return -1; }
                    level->order = grown;
                }
                level->order[level->count++] = (struct name){key_of(name), (uint32_t)used};
                level->names[used] = (char)each->d_type;
                level->names[used + 1] = (char)part;
                memcpy(level->names + used + 2, name, size - 2);
                used += size;
            }
        }
    free(buffer);
    if (level->count) qsort_r(level->order, level->count, sizeof *level->order, before, level->names);
    return 0;
}

/* ---- levels -------------------------------------------------------------------------------------------------- */

static void leave(struct walk *walk) {
    struct level *level = &walk->levels[--walk->depth];
    for (int part = 0; part < level->width; part++) release(level->parts[part]);
    walk->open -= level->width;
    free(level->parts);
    free(level->names);
    free(level->order);
}

/* An empty level above the last one, with room for so many parts. */
static struct level *begin(struct walk *walk, int width, size_t prefix) {
    struct level *level = &walk->levels[walk->depth];
    memset(level, 0, sizeof *level);
    level->prefix = prefix;
    level->parts = malloc((size_t)width * sizeof *level->parts);
    if (level->parts == NULL) return NULL;
    walk->depth++;
    return level;
}

/* One more part at the bottom of the last level. Takes `fd` over, also where it fails. */
static int add(struct walk *walk, int fd, int layer) {
    struct level *level = &walk->levels[walk->depth - 1];
    struct folder *folder = malloc(sizeof *folder);
    if (folder == NULL) {
        close(fd);
        return -1;
    }
    folder->fd = fd;
    folder->layer = layer;
    atomic_init(&folder->users, 1);
    level->parts[level->width++] = folder;
    walk->open++;
    return 0;
}

enum mark { PLAIN = 0, OPAQUE = 1, STRANGE = 2 };

/* What the attributes of an open directory say about those below it. What is more than opaque is for Python. */
static enum mark marked_directory(const struct walk *walk, int fd, char *list, size_t room) {
    if (walk->marks == NULL) return PLAIN;
    enum mark found = PLAIN;
    size_t prefix = strlen(walk->marks);
    ssize_t got = flistxattr(fd, list, room);
    if (got < 0) return errno == ENOTSUP ? PLAIN : STRANGE;
    for (ssize_t at = 0; at < got; at += (ssize_t)strlen(list + at) + 1) {
        const char *kind = list + at + prefix;
        if (strncmp(list + at, walk->marks, prefix) != 0) continue;
        if (strcmp(kind, "redirect") == 0) return STRANGE;
        if (strcmp(kind, "opaque") == 0) {
            char value[4];
            if (fgetxattr(fd, list + at, value, sizeof value) != 1 || value[0] != 'y') return STRANGE;
            found = OPAQUE;
        }
    }
    return found;
}

static int open_directory(int parent, const char *name) {
    return openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Whether the topmost part, just listed, is still where it was: when an overlay removes a merged directory its whiteouts
 * go first, but not before it was moved away (`changeset.parts`). */
static int in_place(int above, const char *name, int fd) {
    struct stat there, here;
    return fstatat(above, name, &there, AT_SYMLINK_NOFOLLOW) == 0 && fstat(fd, &here) == 0
        && there.st_ino == here.st_ino && there.st_dev == here.st_dev;
}

/* Enters the directory that the index of the last level names, `fd` being the topmost part's, which is taken over. 0, or
 * -1 with nothing changed where it has to be handed over. With `later` its names are not listed yet, if it is of one
 * layer only. */
static int descend(struct walk *walk, size_t index, int fd, size_t prefix, int later) {
    struct level *above = &walk->levels[walk->depth - 1];
    size_t end = behind(above, index);
    const char *name = name_at(above, index);
    int top = part_at(above, index);
    enum mark mark = marked_directory(walk, fd, walk->list, sizeof walk->list);
    if (walk->depth == LEVELS || mark == STRANGE || walk->open + (int)(end - index) > walk->most
        || begin(walk, (int)(end - index), prefix) == NULL) {
        close(fd);
        return -1;
    }
    if (add(walk, fd, above->parts[top]->layer) < 0) goto failed;
    for (size_t each = index + 1; each < end && mark == PLAIN; each++) {
        struct folder *part = above->parts[part_at(above, each)];
        struct stat st;
        unsigned char type = type_at(above, each);
        if (type == DT_UNKNOWN) goto failed;
        if (type != DT_DIR) break; /* a whiteout, or a file: what lies below it is hidden */
        int below = open_directory(part->fd, name);
        if (below < 0) goto failed;
        if (fstat(below, &st) < 0 || st.st_dev != walk->device
            || (mark = marked_directory(walk, below, walk->list, sizeof walk->list)) == STRANGE) {
            close(below);
            goto failed;
        }
        if (add(walk, below, part->layer) < 0) goto failed;
    }
    struct level *inside = &walk->levels[walk->depth - 1];
    if (later && inside->width == 1) return 0;
    if (list(inside) < 0) goto failed;
    if (inside->width > 1 && inside->parts[0]->layer == 0 && !in_place(above->parts[top]->fd, name, fd)) goto failed;
    return 0;

failed:
    leave(walk);
    return -1;
}

static int open_file(int parent, const char *name) {
    const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
    int fd = openat(parent, name, flags | O_NOATIME);
    return fd < 0 && errno == EPERM ? openat(parent, name, flags) : fd; /* O_NOATIME is for the owner */
}

static void ended(struct walk *walk) {
    while (walk->depth) leave(walk);
    free(walk);
}

static struct walk *opened(const int *roots, int count, const char *marks, const char *prefix, size_t prefix_length,
                           const char *after) {
    struct stat st;
    if (prefix_length >= LONGEST || count < 1 || count > MOST_PARTS || (marks && strlen(marks) > 30)) {
        errno = ENAMETOOLONG;
        return NULL;
    }
    struct walk *walk = calloc(1, sizeof *walk);
    if (walk == NULL) return NULL;
    walk->root = prefix_length;
    walk->most = MOST_OPEN;
    memcpy(walk->path, prefix, prefix_length);
    if (marks != NULL) walk->marks = strcpy(walk->marks_kept, marks);
    if (begin(walk, count, prefix_length) == NULL) goto failed;
    for (int root = 0; root < count; root++) {
        int fd = openat(roots[root], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0) goto failed;
        if (fstat(fd, &st) < 0 || (root && st.st_dev != walk->device)) {
            close(fd);
            errno = EXDEV;
            goto failed;
        }
        walk->device = st.st_dev;
        if (add(walk, fd, root) < 0) goto failed;
    }
    if (list(&walk->levels[0]) < 0) goto failed;
    while (*after) {
        struct level *level = &walk->levels[walk->depth - 1];
        const char *end = strchrnul(after, '/');
        size_t length = (size_t)(end - after), low = 0, high = level->count;
        if (length > 255) break;
        char name[256];
        memcpy(name, after, length);
        name[length] = 0;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (strcmp(name_at(level, middle), name) < 0) low = middle + 1;
            else high = middle;
        }
        level->next = low;
        after = *end ? end + 1 : end;
        if (low == level->count || strcmp(name_at(level, low), name) != 0) break;
        if (!*after) break;
        /* A directory that is entered without being told of. What it may be instead shows in the facts. */
        if (level->prefix + length + 2 > LONGEST) break;
        int fd = open_directory(level->parts[part_at(level, low)]->fd, name);
        if (fd < 0) break;
        if (fstat(fd, &st) < 0 || st.st_dev != walk->device) { close(fd); break; }
        memcpy(walk->path + level->prefix, name, length);
        walk->path[level->prefix + length] = '/';
        if (descend(walk, low, fd, level->prefix + length + 1, 0) < 0) break;
        level->next = behind(level, low);
    }
    return walk;

failed:;
    int error = errno;
    ended(walk);
    errno = error;
    return NULL;
}
