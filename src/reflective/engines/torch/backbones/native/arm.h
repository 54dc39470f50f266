/* Which products of bytes an ARM processor has. */

#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#ifdef __clang__
#define ARM_DOT __attribute__((target("dotprod")))
#define ARM_I8MM __attribute__((target("dotprod,i8mm")))
#else
#define ARM_DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#define ARM_I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#endif

#if defined(__APPLE__)
static int has_feature(const char *name)
{
    int found = 0;
    size_t size = sizeof found;
    return sysctlbyname(name, &found, &size, 0, 0) == 0 && found;
}
static int has_dot(void) { return has_feature("hw.optional.arm.FEAT_DotProd"); }
static int has_i8mm(void) { return has_feature("hw.optional.arm.FEAT_I8MM"); }
#elif defined(__linux__)
static int has_dot(void) { return getauxval(AT_HWCAP) >> 20 & 1; } /* HWCAP_ASIMDDP */
static int has_i8mm(void) { return getauxval(AT_HWCAP2) >> 13 & 1; } /* HWCAP2_I8MM */
#else
static int has_dot(void) { return 0; }
static int has_i8mm(void) { return 0; }
#endif
